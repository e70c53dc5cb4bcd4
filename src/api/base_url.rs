//! Scheme and host that the links in answers begin with.

use crate::app::App;
use crate::http::{Peer, Request};

/// From the Host header, or from a trusted proxy's X-Forwarded headers. Has no slash at its end.
pub fn base_url(app: &App, request: &Request) -> String {
    let config = app.config();
    let trusted = matches!(request.peer, Peer::Tcp(address) if config.http.trusted_proxies.contains(&address));
    let forwarded = |name: &str| request.header(name).filter(|_| trusted).map(|v| v.split(',').next().unwrap_or_default().trim());
    let scheme = match forwarded("x-forwarded-proto") {
        Some("https") => "https",
        _ => "http",
    };
    let host = forwarded("x-forwarded-host").filter(|host| is_host(host)).unwrap_or_else(|| request.host());
    format!("{scheme}://{host}")
}

/// Host and port as RFC 3986 writes them, as far as it is safe to repeat them in links.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b))
}
