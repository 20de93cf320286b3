//! The documents that describe images, as far as they matter here. Pure: bytes in, decisions out.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::digest::Digest;
use super::{ImageError, Limit};

/// Longest document. Registries allow 4 MiB for a manifest.
pub(super) const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Docker makes 127 at most.
pub(super) const MAX_LAYERS: usize = 128;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Reads a document called `what` in errors.
pub(super) fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::invalid(format!("{what}: {error}")))
}

/// Points at a blob.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) media_type: String,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

impl Platform {
    fn is_ours(&self) -> bool {
        self.os == "linux" && self.architecture == architecture()
    }
}

/// This machine's, as Go spells it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        other => other,
    }
}

impl Descriptor {
    /// The names the index gives it.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let annotations = self.annotations.iter().flatten();
        annotations.filter(|(key, _)| *key == REF_NAME || *key == CONTAINERD_NAME).map(|(_, name)| name.as_str())
    }

    /// An entry that says nothing may be for us; its config will tell.
    pub(super) fn may_be_ours(&self) -> bool {
        self.platform.as_ref().is_none_or(Platform::is_ours)
    }

    /// Whether it is a layer that [`super::unpack`] can read.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if it is not.
    pub(super) fn check_is_layer(&self) -> Result<(), ImageError> {
        let kind = self.media_type.as_str();
        let tar = ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."];
        let plain = !kind.contains("encrypted");
        if kind.is_empty() || (plain && tar.iter().any(|prefix| kind.starts_with(prefix)) && kind.contains("tar")) {
            return Ok(());
        }
        let shown = kind.escape_default().take(100).collect::<String>();
        Err(ImageError::invalid(format!("layer {} is a \"{shown}\", not a tar", self.digest)))
    }
}

/// What a digest or tag can lead to.
#[derive(Debug)]
pub(super) enum Manifest {
    /// One image.
    Image {
        /// Describes how it runs.
        config: Descriptor,
        /// The lowest first.
        layers: Vec<Descriptor>,
    },
    /// Several: one for each platform.
    Index(Vec<Descriptor>),
}

impl Manifest {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        struct Document {
            manifests: Option<Vec<Descriptor>>,
            config: Option<Descriptor>,
            layers: Option<Vec<Descriptor>>,
        }
        match parse("manifest", bytes)? {
            Document { manifests: Some(manifests), config: None, layers: None } => Ok(Self::Index(manifests)),
            Document { manifests: None, config: Some(config), layers: Some(layers) } => {
                check_layer_count(layers.len())?;
                layers.iter().try_for_each(Descriptor::check_is_layer)?;
                Ok(Self::Image { config, layers })
            }
            // One that is both would be read as another image by another tool (CVE-2021-41190).
            _ => Err(ImageError::invalid("manifest: neither an image nor an index")),
        }
    }
}

pub(super) fn check_layer_count(count: usize) -> Result<(), ImageError> {
    match count {
        0 => Err(ImageError::invalid("manifest: no layers")),
        1..=MAX_LAYERS => Ok(()),
        _ => Err(ImageError::TooLarge { limit: Limit::Layers(MAX_LAYERS) }),
    }
}

/// The entry of an index that is for this machine.
pub(super) fn of_this_platform(entries: &[Descriptor]) -> Result<&Descriptor, ImageError> {
    entries.iter().find(|entry| entry.may_be_ours()).ok_or_else(|| not_ours("the index has no image"))
}

fn not_ours(what: &str) -> ImageError {
    ImageError::invalid(format!("{what} for linux/{}", architecture()))
}

/// How an image runs.
#[derive(Debug, Default)]
pub(super) struct Config {
    pub(super) env: BTreeMap<String, String>,
    pub(super) user: Option<String>,
    /// Digests of the layers, uncompressed, the lowest first.
    pub(super) diff_ids: Vec<Digest>,
}

impl Config {
    /// Reads a config. Lines of its environment that are no `name=value` mean nothing to a process and are dropped.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if it is damaged or for another platform.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            os: String,
            #[serde(default)]
            architecture: String,
            config: Option<Process>,
            rootfs: Option<RootFs>,
        }
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "PascalCase")]
        struct Process {
            user: Option<String>,
            env: Option<Vec<String>>,
        }
        #[derive(Deserialize)]
        struct RootFs {
            diff_ids: Option<Vec<Digest>>,
        }
        let document: Document = parse("image config", bytes)?;
        let platform = Platform { os: document.os, architecture: document.architecture };
        let is_silent = platform.os.is_empty() && platform.architecture.is_empty();
        if !is_silent && !platform.is_ours() {
            return Err(not_ours("the image is not"));
        }
        let process = document.config.unwrap_or_default();
        let lines = process.env.unwrap_or_default();
        let env = lines.iter().filter_map(|line| line.split_once('='));
        let env = env.filter(|(name, value)| !name.is_empty() && !name.contains('\0') && !value.contains('\0'));
        Ok(Self {
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            user: process.user.filter(|user| !user.is_empty()),
            diff_ids: document.rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn descriptor(platform: Option<(&str, &str)>) -> serde_json::Value {
        let mut value = json!({"digest": Digest::of(b"x").to_string(), "size": 1});
        if let Some((os, architecture)) = platform {
            value["platform"] = json!({"os": os, "architecture": architecture});
        }
        value
    }

    #[test]
    fn the_entry_of_this_platform_is_chosen() {
        let index = json!({"manifests": [
            descriptor(Some(("unknown", "unknown"))), descriptor(Some(("linux", "mips"))), descriptor(Some(("linux", architecture()))),
        ]});
        let Manifest::Index(entries) = Manifest::parse(index.to_string().as_bytes()).unwrap() else {
            panic!("an index")
        };
        assert!(std::ptr::eq(of_this_platform(&entries).unwrap(), &entries[2]));
        assert!(of_this_platform(&entries[..2]).is_err());
    }

    #[test]
    fn what_is_both_an_image_and_an_index_is_refused() {
        let both = json!({"manifests": [], "config": descriptor(None), "layers": [descriptor(None)]});
        assert!(Manifest::parse(both.to_string().as_bytes()).is_err());
        assert!(Manifest::parse(b"{}").is_err());
    }

    #[test]
    fn layers_are_counted_and_must_be_tars() {
        let image = |layers: Vec<serde_json::Value>| {
            Manifest::parse(json!({"config": descriptor(None), "layers": layers}).to_string().as_bytes())
        };
        assert!(matches!(image(vec![descriptor(None); MAX_LAYERS]), Ok(Manifest::Image { .. })));
        assert!(matches!(image(vec![descriptor(None); MAX_LAYERS + 1]), Err(ImageError::TooLarge { .. })));
        assert!(matches!(image(vec![]), Err(ImageError::Invalid { .. })));
        let of_kind = |kind: &str| {
            let mut layer = descriptor(None);
            layer["mediaType"] = kind.into();
            image(vec![layer]).is_ok()
        };
        assert!(of_kind("application/vnd.oci.image.layer.v1.tar+zstd"));
        assert!(of_kind("application/vnd.docker.image.rootfs.diff.tar.gzip"));
        assert!(!of_kind("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"));
        assert!(!of_kind("application/wasm"));
    }

    #[test]
    fn a_config_gives_environment_and_user() {
        let config = json!({"os": "linux", "architecture": architecture(),
            "config": {"User": "app", "Env": ["PATH=/bin", "EMPTY=", "odd", "=odd", "A=b=c"], "WorkingDir": "/ignored"}});
        let config = Config::parse(config.to_string().as_bytes()).unwrap();
        assert_eq!(config.user.as_deref(), Some("app"));
        let env = [("A", "b=c"), ("EMPTY", ""), ("PATH", "/bin")];
        assert_eq!(config.env, env.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn a_config_of_another_platform_is_refused() {
        assert!(Config::parse(br#"{"os": "windows", "architecture": "amd64"}"#).is_err());
        assert!(Config::parse(br#"{"os": "linux", "architecture": "mips"}"#).is_err());
        assert!(Config::parse(br#"{"config": null, "rootfs": {"diff_ids": null}}"#).is_ok());
        assert!(Config::parse(b"[").is_err());
    }
}
