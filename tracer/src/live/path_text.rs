//! Paths as text, without a look at any file system.

/// Joins and removes `.`, `..` and double slashes.
pub(super) fn normalise(base: &[u8], passed: &[u8], root: &[u8]) -> Vec<u8> {
    fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
        path.split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
    }
    let floor = components(root).count();
    let mut parts: Vec<&[u8]> = components(base).collect();
    for part in components(passed) {
        if part == b".." {
            if parts.len() > floor {
                parts.pop();
            }
        } else {
            parts.push(part);
        }
    }
    let mut path = Vec::new();
    for part in &parts {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    if path.is_empty() { b"/".to_vec() } else { path }
}

/// A path with the component between two places replaced by the target of the link that it is.
pub(super) fn replaced(path: &[u8], start: usize, end: usize, target: &[u8]) -> Vec<u8> {
    let base = if target.first() == Some(&b'/') {
        &b"/"[..]
    } else {
        &path[..start]
    };
    normalise(base, &[target, &path[end..]].concat(), b"/")
}

#[cfg(test)]
mod tests {
    use super::{normalise, replaced};

    #[test]
    fn a_link_is_replaced_where_it_is() {
        assert_eq!(replaced(b"/var/run/x", 4, 8, b"/run"), b"/run/x");
        assert_eq!(replaced(b"/a/b/c", 2, 4, b"../d"), b"/d/c");
        assert_eq!(replaced(b"/link", 0, 5, b"a/b"), b"/a/b");
        assert_eq!(replaced(b"/a/link", 2, 7, b""), b"/a");
    }

    #[test]
    fn paths_are_normalised_within_the_callers_root() {
        assert_eq!(normalise(b"/", b"/run//x/./y/", b"/"), b"/run/x/y");
        assert_eq!(normalise(b"/srv/jail", b"/mnt", b"/srv/jail"), b"/srv/jail/mnt");
        assert_eq!(normalise(b"/a/b", b"../c", b"/"), b"/a/c");
        assert_eq!(
            normalise(b"/srv/jail", b"/../../etc", b"/srv/jail"),
            b"/srv/jail/etc"
        );
        assert_eq!(normalise(b"/a", b".", b"/"), b"/a");
        assert_eq!(normalise(b"/", b"/", b"/"), b"/");
    }
}
