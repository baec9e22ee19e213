//! The disk image, kernel and initial RAM disk: made from Debian packages by
//! `tests/image/build.sh`, kept by the hash of everything in that folder; and beside it the disk with a whole Debian for
//! containers, made by `tests/debian/build.sh`.

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::cache::{self, Key};
use super::cpio;

/// The distribution in the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Debian 13, which users install today.
    Trixie,
    /// Debian 12.
    Bookworm,
}

impl Suite {
    /// The one that the environment's `IMAGE` names; trixie when it names none.
    pub fn from_environment() -> Result<Self> {
        match env::var("IMAGE").as_deref() {
            Err(_) | Ok("" | "trixie") => Ok(Self::Trixie),
            Ok("bookworm") => Ok(Self::Bookworm),
            Ok(other) => bail!("no image {other:?}: IMAGE is trixie or bookworm"),
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Trixie => "trixie",
            Self::Bookworm => "bookworm",
        })
    }
}

/// A finished image.
#[derive(Clone, Debug)]
pub struct Image {
    /// What is in it.
    pub suite: Suite,
    folder: PathBuf,
    debian: PathBuf,
}

impl Image {
    /// The image of a suite, made if it is not there yet.
    pub fn ensure(suite: Suite) -> Result<Self> {
        let made = |recipe: &str, kind: &str| {
            let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join(recipe);
            let key = Key::new().add(suite.to_string()).add_folder(&recipe)?.finish();
            cache::entry(&format!("{kind}-{suite}"), &key, |folder| {
                build(suite, &recipe, folder)
            })
        };
        Ok(Self {
            suite,
            folder: made("image", "image")?,
            debian: made("debian", "debian")?,
        })
    }

    /// The raw root file system. Never written to.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("root.img")
    }

    /// The disk with a Debian for containers, of the same suite. Never written to.
    pub(crate) fn debian(&self) -> PathBuf {
        self.debian.join("debian.img")
    }

    /// The kernel as ELF.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// The version of that kernel.
    pub fn kernel_version(&self) -> Result<String> {
        let version = fs::read_to_string(self.folder.join("kernel-version"))?;
        Ok(version.trim().to_owned())
    }

    /// Tells this image from any other.
    pub(crate) fn key(&self) -> String {
        [&self.folder, &self.debian]
            .map(|folder| folder.file_name().unwrap_or_default().to_string_lossy())
            .join("+")
    }

    /// Writes the initial RAM disk with this agent in it.
    pub(crate) fn write_initrd(&self, agent: &[u8], to: &Path) -> Result<()> {
        let from = self.folder.join("initrd");
        let mut archive = cpio::Archive::new(BufWriter::new(File::create(to)?));
        archive.folder("bin")?;
        archive.folder("modules")?;
        archive.file("bin/busybox", &fs::read(from.join("bin/busybox"))?)?;
        for entry in fs::read_dir(from.join("modules"))? {
            let entry = entry?;
            let name = entry.file_name();
            archive.file(
                &format!("modules/{}", name.to_string_lossy()),
                &fs::read(entry.path())?,
            )?;
        }
        archive.file("init", include_bytes!("../../image/initrd"))?;
        archive.file("agent", agent)?;
        archive.finish()?;
        Ok(())
    }
}

fn build(suite: Suite, recipe: &Path, folder: &Path) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "making the image of the test machine needs root"
    );
    let path = folder.join("build.log");
    let log = File::create(&path)?;
    let status = Command::new(recipe.join("build.sh"))
        .arg(suite.to_string())
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .with_context(|| format!("cannot run {}/build.sh", recipe.display()))?;
    if status.success() {
        return Ok(());
    }
    let log = fs::read_to_string(&path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let tail = lines
        .get(lines.len().saturating_sub(30)..)
        .unwrap_or_default()
        .join("\n");
    bail!(
        "{}/build.sh {suite} failed ({status}); run `make prereqs` first. It said:\n{tail}",
        recipe.display()
    )
}
