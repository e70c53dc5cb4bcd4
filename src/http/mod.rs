//! Bytes <-> requests: the gate that owns the listeners, the server behind it, and the types both sides share.
