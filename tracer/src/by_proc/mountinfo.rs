//! The lines of mountinfo.

use crate::identity::unescape;

use crate::model::Propagation;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `mnt_id`.
    pub id: u32,
    /// That of its parent.
    pub parent: u32,
    /// `major:minor`.
    pub device: String,
    /// Where it is mounted.
    pub path: Vec<u8>,
    /// How it receives mounts.
    pub propagation: Propagation,
    /// File system type.
    pub fs_type: String,
    /// What is mounted.
    pub source: Vec<u8>,
}

/// Parses the whole text; lines that make no sense are left out.
pub(crate) fn parse(text: &[u8]) -> Vec<Line> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// `36 35 98:0 /root /at rw,noatime master:1 - ext3 /dev/root rw`: any number of optional fields before the dash.
fn line(text: &[u8]) -> Option<Line> {
    let mut fields = text.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let path = unescape(fields.nth(1)?);
    let optional = fields.by_ref().skip(1).take_while(|field| *field != b"-");
    let (shared, slave) = optional.fold((false, false), |(shared, slave), field: &[u8]| {
        (
            shared || field.starts_with(b"shared:"),
            slave || field.starts_with(b"master:"),
        )
    });
    Some(Line {
        id,
        parent,
        device,
        path,
        propagation: Propagation::new(shared, slave),
        fs_type: String::from_utf8_lossy(fields.next()?).into_owned(),
        source: unescape(fields.next()?),
    })
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::model::Propagation;

    use super::parse;

    #[test]
    fn lines() {
        let text = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            40 22 0:40 / /mnt/a\\040b rw shared:7 master:2 - nfs4 server:/x rw,addr=1\n\
            41 40 0:41 / /mnt/a\\040b/c rw - tmpfs none rw\nnonsense\n42 22\n";
        let lines = parse(text);
        assert_eq!(lines.len(), 3);
        assert_eq!(
            (lines[1].id, lines[1].parent, lines[1].path.as_slice()),
            (40, 22, &b"/mnt/a b"[..])
        );
        assert_eq!(lines[1].propagation, Propagation::SharedSlave);
        assert_eq!(
            (lines[1].fs_type.as_str(), lines[1].device.as_str()),
            ("nfs4", "0:40")
        );
        assert_eq!(
            (lines[0].propagation, lines[2].propagation),
            (Propagation::Shared, Propagation::Private)
        );
        assert_eq!(lines[2].source, b"none");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in prop::collection::vec(any::<u8>(), 0..400)) {
            parse(&text);
        }
    }
}
