//! Names and paths as the kernel has them: any bytes but NUL.

use std::{borrow::Cow, fmt};

use base64::Engine as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that are usually text. JSON gets a string with U+FFFD for what is no UTF-8; where that loses something
/// that matters, the field beside it has the bytes in base64 ([`Text::base64_if_lossy`]).
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Vec<u8>);

impl Text {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a string, with U+FFFD for what is no UTF-8.
    #[must_use]
    pub fn to_str_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// The bytes in base64, if they are not UTF-8.
    #[must_use]
    pub fn base64_if_lossy(&self) -> Option<String> {
        std::str::from_utf8(&self.0)
            .is_err()
            .then(|| base64::engine::general_purpose::STANDARD.encode(&self.0))
    }

    /// The bytes up to the first NUL: what a C string in a fixed array holds.
    #[must_use]
    pub fn from_c_array(bytes: &[u8]) -> Self {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Self(bytes[..end].to_vec())
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for Text {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_str_lossy())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_str_lossy())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::Text;

    #[test]
    fn text_that_is_no_utf8_keeps_its_bytes_in_base64() {
        let text = Text::from(&b"a\xff"[..]);
        assert_eq!(serde_json::to_string(&text).unwrap(), "\"a\u{fffd}\"");
        assert_eq!(text.base64_if_lossy().as_deref(), Some("Yf8="));
        assert_eq!(Text::from("ä").base64_if_lossy(), None);
    }

    #[test]
    fn a_c_array_ends_at_its_nul() {
        assert_eq!(Text::from_c_array(b"sh\0junk"), Text::from("sh"));
        assert_eq!(Text::from_c_array(b"full"), Text::from("full"));
    }
}
