"""What the end-to-end tests share: the daemon as a process, an HTTP client, disk images, and registration shortcuts."""
