//! What a proxy in front says of a request: under which scheme and host the client sees this server, and who the client is. Only what
//! configured proxies say is believed.

use std::net::IpAddr;

use crate::app::App;
use crate::config::Config;
use crate::http::{Peer, Request};

/// What the links in answers begin with: from the Host header, or from a trusted proxy's X-Forwarded headers. Has no slash at its end.
pub fn base_url(app: &App, request: &Request) -> String {
    let trusted = is_trusted(&app.config(), request.peer);
    let forwarded = |name: &str| request.header(name).filter(|_| trusted).map(|v| v.split(',').next().unwrap_or_default().trim());
    let scheme = match forwarded("x-forwarded-proto") {
        Some("https") => "https",
        _ => "http",
    };
    let host = forwarded("x-forwarded-host").filter(|host| is_host(host)).unwrap_or_else(|| request.host());
    format!("{scheme}://{host}")
}

/// Who sends a request, for what is counted by address: behind trusted proxies, who the outermost of them says it was. What stands further
/// to the left in X-Forwarded-For was there before it came to them, and is the client's own invention.
pub fn client(config: &Config, request: &Request) -> Peer {
    let mut peer = request.peer;
    let fields = request.headers.iter().rev().filter(|(name, _)| name == "x-forwarded-for");
    for hop in fields.flat_map(|(_, value)| value.rsplit(',')) {
        match hop.trim().parse::<IpAddr>() {
            Ok(address) if is_trusted(config, peer) => peer = Peer::Tcp(address.to_canonical()),
            _ => break,
        }
    }
    peer
}

fn is_trusted(config: &Config, peer: Peer) -> bool {
    matches!(peer, Peer::Tcp(address) if config.http.trusted_proxies.contains(&address))
}

/// Host and port as RFC 3986 writes them, as far as it is safe to repeat them in links.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b))
}
