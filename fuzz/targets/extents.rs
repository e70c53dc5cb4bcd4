#![no_main]
cofferd_fuzz::target!(cofferd::fuzz::extents);
