//! Reads this machine's sources of Debian packages, so that kernels of other releases come from the same mirror. Pure
//! parsing, except [`Mirror::of_this_machine`].

use std::{env, fmt::Write as _, fs, path::Path};

use anyhow::{Result, bail};

/// Environment variable with the address of a Debian archive, for machines whose settings name none.
pub(crate) const MIRROR: &str = "EBUSY_DEBIAN_MIRROR";

const RELEASES: [&str; 12] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "stable",
    "oldstable",
    "oldoldstable",
    "testing",
    "unstable",
    "buster",
];

/// One entry of the settings: an address with the suites that are taken from it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Source {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
    /// `Signed-By` and `Trusted`, as in the settings.
    options: Vec<(String, String)>,
}

/// A Debian archive and its security archive.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Mirror {
    archive: Source,
    security: Option<Source>,
}

impl Mirror {
    /// From `/etc/apt`, or from [`MIRROR`].
    pub(crate) fn of_this_machine() -> Result<Self> {
        if let Ok(uri) = env::var(MIRROR)
            && !uri.is_empty()
        {
            let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
            let options = Path::new(keyring)
                .is_file()
                .then(|| ("Signed-By".to_owned(), keyring.to_owned()));
            return Ok(Self::new(
                Source {
                    uri,
                    options: options.into_iter().collect(),
                    ..Source::default()
                },
                None,
            ));
        }
        let mut sources = Vec::new();
        let parts = fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        for path in parts.chain([Path::new("/etc/apt/sources.list").to_path_buf()]) {
            let text = fs::read_to_string(&path).unwrap_or_default();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("sources") => sources.extend(parse_stanzas(&text)),
                Some("list") => sources.extend(parse_lines(&text)),
                _ => {}
            }
        }
        let Some(mirror) = Self::choose(&sources) else {
            bail!(
                "the settings in /etc/apt name no Debian archive to take test kernels from; \
                 set {MIRROR} to the address of one"
            );
        };
        Ok(mirror)
    }

    fn new(archive: Source, security: Option<Source>) -> Self {
        let security = security.or_else(|| {
            let uri = archive.uri.trim_end_matches('/').strip_suffix("debian")?;
            Some(Source {
                uri: format!("{uri}debian-security"),
                ..archive.clone()
            })
        });
        Self { archive, security }
    }

    /// Picks the entry that looks most like Debian's own archive: others use its suite names, too.
    fn choose(sources: &[Source]) -> Option<Self> {
        let has_updates = |uri: &str| {
            sources
                .iter()
                .any(|other| other.uri == uri && other.suites.iter().any(|suite| suite.ends_with("-updates")))
        };
        let archive = sources
            .iter()
            .filter(|source| source.components.iter().any(|component| component == "main"))
            .filter(|source| {
                source
                    .suites
                    .iter()
                    .any(|suite| RELEASES.contains(&suite.as_str()))
            })
            .max_by_key(|source| {
                let named = source.uri.trim_end_matches('/').ends_with("/debian");
                u8::from(has_updates(&source.uri)) * 2 + u8::from(named)
            })?;
        let security = sources.iter().find(|source| {
            source.suites.iter().any(|suite| {
                suite
                    .strip_suffix("-security")
                    .or_else(|| suite.strip_suffix("/updates"))
                    .is_some_and(|release| RELEASES.contains(&release))
            })
        });
        Some(Self::new(archive.clone(), security.cloned()))
    }

    /// The settings for these suites, in apt's newer format.
    pub(crate) fn render(&self, suites: &[&str]) -> String {
        let mut text = String::new();
        for suite in suites {
            let source = match &self.security {
                Some(security) if suite.ends_with("-security") => security,
                None if suite.ends_with("-security") => continue,
                _ => &self.archive,
            };
            let _ = writeln!(
                text,
                "Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main",
                source.uri
            );
            for (name, value) in &source.options {
                let _ = writeln!(text, "{name}: {value}");
            }
            text.push('\n');
        }
        text
    }
}

/// The older format: `deb [options] address suite components`.
fn parse_lines(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let Some(rest) = line.trim().strip_prefix("deb ") else {
            continue;
        };
        let (options, rest) = match rest
            .trim()
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else {
            continue;
        };
        let options = options
            .split_whitespace()
            .filter_map(|option| option.split_once('='))
            .filter_map(|(name, value)| match name {
                "signed-by" => Some(("Signed-By".to_owned(), value.to_owned())),
                "trusted" => Some(("Trusted".to_owned(), value.to_owned())),
                _ => None,
            });
        sources.push(Source {
            uri,
            suites: vec![suite],
            components: words.collect(),
            options: options.collect(),
        });
    }
    sources
}

/// The newer format: stanzas of fields, whose values may continue in indented lines.
fn parse_stanzas(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            sources.extend(stanza(&fields));
            fields.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    sources
}

fn stanza(fields: &[(String, String)]) -> Vec<Source> {
    let field = |name: &str| {
        fields
            .iter()
            .find(|field| field.0 == name)
            .map_or("", |field| field.1.as_str())
    };
    let words = |name: &str| {
        field(name)
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let on = field("enabled").is_empty() || ["yes", "true", "1"].contains(&field("enabled"));
    if !on || !words("types").iter().any(|kind| kind == "deb") {
        return Vec::new();
    }
    let options: Vec<_> = [("signed-by", "Signed-By"), ("trusted", "Trusted")]
        .into_iter()
        .filter(|(name, _)| !field(name).is_empty())
        .map(|(name, written)| (written.to_owned(), field(name).to_owned()))
        .collect();
    let source = |uri| Source {
        uri,
        suites: words("suites"),
        components: words("components"),
        options: options.clone(),
    };
    words("uris").into_iter().map(source).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZAS: &str = "\
Types: deb
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: trixie trixie-updates
Components: main
";

    #[test]
    fn stanzas_give_archive_and_security() {
        let mirror = Mirror::choose(&parse_stanzas(STANZAS)).unwrap();
        assert_eq!(
            mirror.render(&["trixie", "trixie-security"]),
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n\
             Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
             Types: deb\nURIs: http://mirror.example/debian-security\nSuites: trixie-security\nComponents: main\n\
             Signed-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n -----END PGP PUBLIC KEY BLOCK-----\n\n"
        );
    }

    #[test]
    fn lines_with_options() {
        let text = "\
# deb http://comment.example/debian sid main
deb-src http://source.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://tool.example/linux/debian bookworm stable
deb [arch=amd64 signed-by=/k.gpg trusted=yes] http://mirror.example/debian/ bookworm main contrib # here
deb http://mirror.example/debian/ bookworm-updates main
";
        let mirror = Mirror::choose(&parse_lines(text)).unwrap();
        assert_eq!(
            mirror.render(&["sid", "bookworm-security"]),
            "Types: deb\nURIs: http://mirror.example/debian/\nSuites: sid\nComponents: main\n\
             Signed-By: /k.gpg\nTrusted: yes\n\n\
             Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\n\
             Signed-By: /k.gpg\nTrusted: yes\n\n"
        );
    }

    #[test]
    fn another_distribution_has_no_mirror() {
        assert_eq!(
            Mirror::choose(&parse_lines(
                "deb http://mirror.example/ubuntu noble main universe\n"
            )),
            None
        );
        assert_eq!(
            Mirror::choose(&parse_stanzas("garbage\n: :\n\n  indented\n")),
            None
        );
    }

    #[test]
    fn debian_wins_over_what_borrows_its_suite_names() {
        let text = "\
deb http://tool.example/repo bookworm main
deb http://mirror.example/mirrors/linux bookworm main
deb http://mirror.example/mirrors/linux bookworm-updates main
";
        let mirror = Mirror::choose(&parse_lines(text)).unwrap();
        assert!(mirror.render(&["sid"]).contains("mirror.example/mirrors/linux"));
        assert_eq!(mirror.render(&["bookworm-security"]), "");
    }
}
