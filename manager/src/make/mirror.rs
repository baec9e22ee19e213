//! What `--mirror` names, as debootstrap takes it. mmdebstrap takes a URL and a whole line of `sources.list(5)` as they are;
//! for debootstrap such a line is taken apart, and what it has no option for is refused. Pure.

/// A mirror that debootstrap cannot use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "debootstrap cannot use the mirror `{line}`: {why}; say otherwise, or `apt install mmdebstrap`, which can"
)]
pub(crate) struct MirrorError {
    line: String,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Why {
    #[error("expected `deb [OPTIONS] URL SUITE COMPONENT...`")]
    NoLine,
    #[error("it knows nothing like `{0}`")]
    Unknown(String),
    #[error("its suite is `{0}`, which is not the distribution's")]
    OtherSuite(String),
}

/// A mirror for debootstrap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Mirror {
    /// Options that come before the suite. Signatures are checked unless the line says `trusted=yes`: left alone, debootstrap
    /// goes on without them where it finds no key.
    pub(crate) options: Vec<String>,
    pub(crate) url: Option<String>,
}

impl Mirror {
    /// Of a URL, a line of `sources.list(5)`, or the distribution's own.
    pub(crate) fn of(text: Option<&str>, suite: &str) -> Result<Self, MirrorError> {
        let checked = || vec!["--force-check-gpg".to_owned()];
        let Some(text) = text else {
            return Ok(Self {
                options: checked(),
                url: None,
            });
        };
        let Some(line) = text.trim().strip_prefix("deb ") else {
            return Ok(Self {
                options: checked(),
                url: Some(text.into()),
            });
        };
        Self::of_line(line, suite).map_err(|why| MirrorError {
            line: text.into(),
            why,
        })
    }

    fn of_line(line: &str, suite: &str) -> Result<Self, Why> {
        let (said, rest) = match line.trim_start().strip_prefix('[') {
            Some(line) => line.split_once(']').ok_or(Why::NoLine)?,
            None => ("", line),
        };
        let mut check = "--force-check-gpg";
        let mut options = Vec::new();
        for option in said.split_ascii_whitespace() {
            match option.split_once('=') {
                Some(("trusted", "yes")) => check = "--no-check-gpg",
                Some(("signed-by", key)) if key.starts_with('/') => options.push(format!("--keyring={key}")),
                // What is installed is said by --arch.
                Some(("arch", _)) => {}
                _ => return Err(Why::Unknown(option.into())),
            }
        }
        options.insert(0, check.into());
        let mut words = rest.split_ascii_whitespace();
        let (Some(url), Some(its)) = (words.next(), words.next()) else {
            return Err(Why::NoLine);
        };
        let components: Vec<_> = words.collect();
        if its != suite {
            return Err(Why::OtherSuite(its.into()));
        }
        if components.is_empty() {
            return Err(Why::NoLine);
        }
        options.push(format!("--components={}", components.join(",")));
        // apt copies such packages and reads others where they are; debootstrap copies all.
        let url = url
            .strip_prefix("copy:")
            .map_or_else(|| url.to_owned(), |path| format!("file:{path}"));
        Ok(Self {
            options,
            url: Some(url),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors() {
        let of = |text: Option<&str>| {
            let found = Mirror::of(text, "trixie").map_err(|error| error.to_string())?;
            Ok::<_, String>(format!(
                "{} {}",
                found.options.join(" "),
                found.url.unwrap_or_default()
            ))
        };
        for (text, expected) in [
            (None, "--force-check-gpg "),
            (Some("http://x/debian"), "--force-check-gpg http://x/debian"),
            (
                Some("deb http://x/debian trixie main"),
                "--force-check-gpg --components=main http://x/debian",
            ),
            (
                Some("deb [trusted=yes  arch=amd64] copy:/srv/x trixie main contrib"),
                "--no-check-gpg --components=main,contrib file:/srv/x",
            ),
            (
                Some("deb [ signed-by=/k.gpg ] https://x trixie main"),
                "--force-check-gpg --keyring=/k.gpg --components=main https://x",
            ),
        ] {
            assert_eq!(of(text).as_deref(), Ok(expected), "{text:?}");
        }
        for (text, why) in [
            (
                "deb [trusted=yes] copy:/srv/x ./",
                "its suite is `./`, which is not the distribution's",
            ),
            (
                "deb http://x bookworm main",
                "its suite is `bookworm`, which is not the distribution's",
            ),
            ("deb http://x", "expected `deb [OPTIONS] URL SUITE COMPONENT...`"),
            (
                "deb http://x trixie",
                "expected `deb [OPTIONS] URL SUITE COMPONENT...`",
            ),
            (
                "deb [trusted=yes http://x trixie main",
                "expected `deb [OPTIONS] URL SUITE COMPONENT...`",
            ),
            (
                "deb [signed-by=ABCD] http://x trixie main",
                "it knows nothing like `signed-by=ABCD`",
            ),
            (
                "deb [pdiffs=no] http://x trixie main",
                "it knows nothing like `pdiffs=no`",
            ),
        ] {
            assert_eq!(
                of(Some(text)),
                Err(format!(
                    "debootstrap cannot use the mirror `{text}`: {why}; say otherwise, or `apt install mmdebstrap`, which can"
                ))
            );
        }
    }
}
