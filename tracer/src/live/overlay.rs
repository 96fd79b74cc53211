//! The options of an overlay as they were passed to mount(2) (Documentation/filesystems/overlayfs.rst).

/// The directories that an overlay was to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OverlayOptions {
    /// Lower directories.
    pub(super) lower: Vec<Vec<u8>>,
    /// Upper directory.
    pub(super) upper: Option<Vec<u8>>,
    /// Work directory.
    pub(super) work: Option<Vec<u8>>,
}

impl OverlayOptions {
    /// From `lowerdir=a:b,upperdir=c,workdir=d`. A backslash keeps what follows it from ending a name.
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut options = Self::default();
        for option in split(text, b',') {
            let Some(equals) = option.iter().position(|byte| *byte == b'=') else {
                continue;
            };
            let (name, value) = (&option[..equals], &option[equals + 1..]);
            match name {
                b"lowerdir" => {
                    let layers = split(value, b':');
                    options
                        .lower
                        .extend(layers.filter(|layer| !layer.is_empty()).map(plain));
                }
                b"lowerdir+" => options.lower.push(plain(value)),
                b"upperdir" => options.upper = Some(plain(value)),
                b"workdir" => options.work = Some(plain(value)),
                _ => {}
            }
        }
        options
    }
}

/// Pieces between separators that no backslash is before.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut escaped = false;
    text.split(move |byte| {
        let ends = *byte == separator && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })
}

fn plain(value: &[u8]) -> Vec<u8> {
    let mut escaped = false;
    value
        .iter()
        .copied()
        .filter(|byte| {
            escaped = *byte == b'\\' && !escaped;
            !escaped
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::OverlayOptions;

    #[test]
    fn directories_of_an_overlay() {
        let options = OverlayOptions::parse(b"index=on,lowerdir=/a:/b\\:c:/d,upperdir=/u\\,v,workdir=/w,ro");
        assert_eq!(options.lower, [&b"/a"[..], b"/b:c", b"/d"]);
        assert_eq!(options.upper.as_deref(), Some(&b"/u,v"[..]));
        assert_eq!(options.work.as_deref(), Some(&b"/w"[..]));
        assert_eq!(OverlayOptions::parse(b"\xff\\"), OverlayOptions::default());
        assert_eq!(OverlayOptions::parse(b"upperdir=").upper, Some(Vec::new()));
    }
}
