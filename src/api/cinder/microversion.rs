//! Microversions: which of the API's many small revisions a request speaks (Cinder contract 3.2).

use super::error::CinderError;

/// A revision of API version 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Microversion(pub u16);

impl Microversion {
    pub const MIN: Microversion = Microversion(0);
    pub const MAX: Microversion = Microversion(71);

    /// From the header `OpenStack-API-Version`: `volume 3.N`, perhaps among those of other services. Without one it is 3.0.
    pub fn from_header(header: Option<&str>) -> Result<Microversion, CinderError> {
        let entries = header.unwrap_or_default().split(',').map(|entry| entry.split_ascii_whitespace().collect::<Vec<_>>());
        let mine = |words: &Vec<&str>| matches!(words.first().copied(), Some("volume" | "volumev3" | "block-storage"));
        let Some(words) = entries.into_iter().find(mine) else { return Ok(Microversion::MIN) };
        let text = words.get(1).copied().unwrap_or_default();
        match (text, words.len()) {
            ("latest", 2) => return Ok(Microversion::MAX),
            (_, 2) => {}
            _ => return Err(malformed(&words.join(" "))),
        }
        let (major, minor) = text.split_once('.').ok_or_else(|| malformed(text))?;
        let (major, minor) = (number(major).ok_or_else(|| malformed(text))?, number(minor).ok_or_else(|| malformed(text))?);
        let fits = major == 3 && minor <= u32::from(Microversion::MAX.0);
        match u16::try_from(minor) {
            Ok(minor) if fits => Ok(Microversion(minor)),
            _ => Err(CinderError::not_acceptable(format!(
                "Version {text} is not supported by the API. Minimum is {} and maximum is {}.",
                Microversion::MIN,
                Microversion::MAX
            ))),
        }
    }
}

/// A number without sign or leading zero; one that is too large for us is the largest we have.
fn number(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().unwrap_or(u32::MAX))
}

fn malformed(text: &str) -> CinderError {
    CinderError::bad_request(format!("API version \"{text}\" is malformed; it is written like \"volume 3.{}\".", Microversion::MAX.0))
}

impl std::fmt::Display for Microversion {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "3.{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(header: &str) -> Result<u16, u16> {
        Microversion::from_header(Some(header)).map(|v| v.0).map_err(|e| e.into_response().status)
    }

    #[test]
    fn versions_are_found_among_those_of_other_services() {
        assert_eq!(Microversion::from_header(None).unwrap(), Microversion::MIN);
        for (header, version) in [
            ("volume 3.0", 0),
            ("volume 3.71", 71),
            ("volume latest", 71),
            ("volumev3 3.43", 43),
            ("block-storage 3.9", 9),
            ("compute 2.90, volume 3.5", 5),
            ("compute 2.90,volume 3.5", 5),
            ("compute 2.90", 0),
            ("", 0),
        ] {
            assert_eq!(asked(header), Ok(version), "{header}");
        }
    }

    #[test]
    fn wrong_versions_are_refused() {
        for header in ["volume 3.72", "volume 3.99", "volume 4.0", "volume 2.0", "volume 3.4294967296", "volume 99999999999.0"] {
            assert_eq!(asked(header), Err(406), "{header}");
        }
        for header in ["volume", "volume 3", "volume 3.01", "volume x.y", "volume 3.", "volume .1", "volume 3.1 x", "volume -3.1"] {
            assert_eq!(asked(header), Err(400), "{header}");
        }
    }
}
