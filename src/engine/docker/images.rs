//! Images of sandboxes in Docker's own store.
//!
//! A registry reference is pulled as the operator's policy says. A root file system tar is imported, and an archive
//! loaded, once: what they become is tagged with the digest of the file. What was brought like that, no container is made
//! of, and nobody has asked for in a day, can go; what Docker had before is never touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::body_try_stream;
use bollard::errors::Error;
use bollard::query_parameters::{
    CreateImageOptions, CreateImageOptionsBuilder, ImportImageOptions, ListContainersOptionsBuilder, ListImagesOptions,
    RemoveImageOptions, TagImageOptionsBuilder,
};
use futures_util::{Stream, StreamExt};
use oci_client::Reference;
use sha2::{Digest, Sha256};
use tokio_util::io::ReaderStream;

use super::Pull;
use super::brought::Brought;
use super::client::{Client, call, is_not_found};
use super::container::INSTANCE;
use super::digests::{Digests, hex};
use crate::engine::{EngineError, ImageDefaults, wanted_since};
use crate::image::{Credentials, ImageError, ImageRef, Proof};

/// Of a pull, an import or a load, from its beginning to its end.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(1800);

/// Of a look at an image.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);

/// Of a removal: Docker removes the layers before it answers.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(60);

/// The repository of what was imported or loaded from files.
const REPOSITORY: &str = "handsd/files";

/// Bytes of a file at a time.
const CHUNK: usize = 256 << 10;

/// An image that Docker has.
#[derive(Debug)]
pub struct Image {
    /// Docker's id of it.
    pub id: String,
    /// What it says about runs.
    pub defaults: ImageDefaults,
}

/// The images.
#[derive(Debug)]
pub struct Images {
    client: Client,
    instance: String,
    pull: Pull,
    /// Docker's `config.json`.
    credentials: Option<PathBuf>,
    digests: Digests,
    brought: Brought,
}

/// Why a step with an image failed: the image is at fault, or Docker.
enum Fault {
    Image(ImageError),
    Engine(EngineError),
}

impl Images {
    /// Images of an engine, for one daemon.
    pub fn new(client: Client, instance: String, pull: Pull, credentials: Option<PathBuf>, brought: Brought) -> Self {
        Self { client, instance, pull, credentials, digests: Digests::default(), brought }
    }

    /// Sees to it that Docker has an image.
    ///
    /// # Errors
    /// [`EngineError::Image`], [`EngineError::ImageUnsupported`], and those of [`call`].
    pub async fn resolve(&self, image: &ImageRef) -> Result<Image, EngineError> {
        let found = match image {
            ImageRef::Registry(name) => self.pulled(name).await,
            ImageRef::Tar(path) => self.imported(path).await,
            ImageRef::Archive(path, name) => self.loaded(path, name.as_deref()).await,
            ImageRef::Host | ImageRef::Dir(_) => {
                return Err(EngineError::ImageUnsupported { image: image.clone(), engine: super::NAME });
            }
        };
        found.map_err(|fault| match fault {
            Fault::Image(source) => EngineError::Image { image: image.clone(), source },
            Fault::Engine(error) => error,
        })
    }

    async fn pulled(&self, name: &str) -> Result<Image, Fault> {
        let reference: Reference = name.parse().map_err(|_| Fault::Image(ImageError::NotFound))?;
        let full = full_name(&reference);
        match (self.present(&full).await?, self.pull) {
            (Some(image), Pull::Missing | Pull::Never) => return Ok(image),
            (None, Pull::Never) => return Err(Fault::Image(ImageError::NotFound)),
            (None, Pull::Missing | Pull::Always) => self.note(&full)?,
            (Some(_), Pull::Always) => {}
        }
        self.pull(&reference, &full).await?;
        self.inspect(&full).await?.ok_or(Fault::Image(ImageError::NotFound))
    }

    async fn pull(&self, reference: &Reference, full: &str) -> Result<(), Fault> {
        let registry = reference.resolve_registry();
        let credentials = self.credentials.as_deref().and_then(|path| Credentials::of_file(path, registry));
        let options = CreateImageOptionsBuilder::new().from_image(full).build();
        let credentials = credentials.map(docker_credentials);
        let pulling = finish(self.client.raw().create_image(Some(options), None, credentials));
        match call(&format!("pull {full}"), TRANSFER_DEADLINE, pulling).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(Refusal::NotFound)) => Err(Fault::Image(ImageError::NotFound)),
            Ok(Err(Refusal::Because(reason))) => {
                Err(Fault::Image(ImageError::PullRefused { registry: registry.to_owned(), reason }))
            }
            Err(error) => Err(Fault::Engine(error)),
        }
    }

    /// A root file system tar.
    async fn imported(&self, path: &Path) -> Result<Image, Fault> {
        let tag = self.digests.of(path).await.map_err(|error| of_file(path, error))?;
        let name = format!("{REPOSITORY}:{tag}");
        if let Some(image) = self.present(&name).await? {
            return Ok(image);
        }
        self.note(&name)?;
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(REPOSITORY.to_owned()),
            tag: Some(tag),
            changes: vec![format!("LABEL {INSTANCE}={}", self.instance)],
            ..CreateImageOptions::default()
        };
        let body = body_try_stream(read(path).await?);
        let importing = finish(self.client.raw().create_image(Some(options), Some(body), None));
        self.transferred(path, importing).await?;
        self.inspect(&name).await?.ok_or(Fault::Image(ImageError::NotFound))
    }

    /// A `docker save` or OCI archive.
    async fn loaded(&self, path: &Path, wanted: Option<&str>) -> Result<Image, Fault> {
        let tag = self.digests.of(path).await.map_err(|error| of_file(path, error))?;
        let tag = wanted.map_or_else(|| tag.clone(), |name| hex(&Sha256::digest(format!("{tag} {name}"))));
        let name = format!("{REPOSITORY}:{tag}");
        if let Some(image) = self.present(&name).await? {
            return Ok(image);
        }
        self.note(&name)?;
        let before = self.tags().await.map_err(Fault::Engine)?;
        let body = read(path).await?;
        let loading = finish(self.client.raw().import_image_stream(ImportImageOptions::default(), body, None));
        let said = self.transferred(path, loading).await?;
        let holds: Vec<String> = said.iter().filter_map(|info| loaded_name(info.stream.as_deref()?)).collect();
        let chosen = choose(holds.clone(), wanted).map_err(Fault::Image)?;
        let options = TagImageOptionsBuilder::new().repo(REPOSITORY).tag(&tag).build();
        let tagging = self.client.raw().tag_image(&chosen, Some(options));
        call(&format!("tag {chosen}"), LOOK_DEADLINE, tagging).await.map_err(Fault::Engine)?;
        // The archive's own names were nobody's wish; what has no name is the image itself.
        for name in holds.iter().filter(|name| !name.starts_with("sha256:") && !before.contains(*name)) {
            self.remove(name).await.map_err(Fault::Engine)?;
        }
        self.inspect(&name).await?.ok_or(Fault::Image(ImageError::NotFound))
    }

    async fn transferred<T>(
        &self,
        path: &Path,
        transfer: impl Future<Output = Result<Result<Vec<T>, Refusal>, Error>>,
    ) -> Result<Vec<T>, Fault> {
        match call(&format!("hand {} to Docker", path.display()), TRANSFER_DEADLINE, transfer).await {
            Ok(Ok(said)) => Ok(said),
            Ok(Err(Refusal::Because(reason))) => Err(Fault::Image(ImageError::Invalid { reason })),
            Ok(Err(Refusal::NotFound)) => Err(Fault::Image(ImageError::NotFound)),
            Err(error) => Err(Fault::Engine(error)),
        }
    }

    /// An image that Docker has, for something to be made of it.
    async fn present(&self, name: &str) -> Result<Option<Image>, Fault> {
        let image = self.inspect(name).await?;
        if image.is_some() {
            self.brought.used(name);
        }
        Ok(image)
    }

    fn note(&self, name: &str) -> Result<(), Fault> {
        let step = || format!("note that {name} is brought");
        self.brought.note(name).map_err(|source| Fault::Engine(EngineError::Step { step: step(), source }))
    }

    /// The images that were brought, and that nothing is made of any more.
    ///
    /// # Errors
    /// Those of [`call`], and [`EngineError::Step`].
    pub async fn stale(&self) -> Result<Vec<String>, EngineError> {
        let failed = |source| EngineError::Step { step: "read which images were brought".to_owned(), source };
        let mut stale = Vec::new();
        for name in self.brought.unused_since(wanted_since()).map_err(failed)? {
            match self.look(&name).await? {
                Some(image) if self.is_in_use(&image.id).await? => {}
                Some(_) => stale.push(name),
                None => self.brought.forget(&name).map_err(failed)?,
            }
        }
        Ok(stale)
    }

    /// Whether there are containers of it, whoever made them and whether they run.
    async fn is_in_use(&self, id: &str) -> Result<bool, EngineError> {
        let filters = HashMap::from([("ancestor", vec![id.to_owned()])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listing = self.client.raw().list_containers(Some(options));
        Ok(!call("list the containers of an image", LOOK_DEADLINE, listing).await?.is_empty())
    }

    /// Removes an image, or only its name if it has others. Docker refuses to if a container is made of it by now.
    ///
    /// # Errors
    /// Those of [`call`], and [`EngineError::Step`].
    pub async fn remove(&self, name: &str) -> Result<(), EngineError> {
        let step = format!("remove image {name}");
        let removing = async {
            match self.client.raw().remove_image(name, None::<RemoveImageOptions>, None).await {
                Err(error) if !is_not_found(&error) => Err(error),
                Ok(_) | Err(_) => Ok(()),
            }
        };
        call(&step, REMOVAL_DEADLINE, removing).await?;
        self.brought.forget(name).map_err(|source| EngineError::Step { step, source })
    }

    /// The names of all images that Docker has.
    async fn tags(&self) -> Result<BTreeSet<String>, EngineError> {
        let listing = self.client.raw().list_images(None::<ListImagesOptions>);
        let images = call("list images", LOOK_DEADLINE, listing).await?;
        Ok(images.into_iter().flat_map(|image| image.repo_tags).collect())
    }

    async fn inspect(&self, name: &str) -> Result<Option<Image>, Fault> {
        self.look(name).await.map_err(Fault::Engine)
    }

    async fn look(&self, name: &str) -> Result<Option<Image>, EngineError> {
        let looking = async {
            match self.client.raw().inspect_image(name).await {
                Err(error) if is_not_found(&error) => Ok(None),
                result => result.map(Some),
            }
        };
        let found = call(&format!("inspect {name}"), LOOK_DEADLINE, looking).await?;
        Ok(found.and_then(|image| {
            let config = image.config.unwrap_or_default();
            let env = config.env.unwrap_or_default();
            let env: BTreeMap<String, String> = env.iter().filter_map(|entry| split(entry)).collect();
            let user = config.user.filter(|user| !user.is_empty());
            Some(Image { id: image.id?, defaults: ImageDefaults { env, user } })
        }))
    }
}

/// Docker did what it could, and the other side or the file is at fault.
enum Refusal {
    NotFound,
    Because(String),
}

/// Reads what Docker says about a transfer to its end.
async fn finish<T>(said: impl Stream<Item = Result<T, Error>>) -> Result<Result<Vec<T>, Refusal>, Error> {
    let mut said = std::pin::pin!(said);
    let mut all = Vec::new();
    while let Some(next) = said.next().await {
        match next {
            // Progress of a pull is thousands of these; only the last ones tell anything.
            Ok(info) => {
                if all.len() == MAX_SAID {
                    all.remove(0);
                }
                all.push(info);
            }
            Err(error) if is_not_found(&error) => return Ok(Err(Refusal::NotFound)),
            Err(Error::DockerStreamError { error: message } | Error::DockerResponseServerError { message, .. }) => {
                return Ok(Err(Refusal::Because(message)));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Ok(all))
}

/// How many messages about a transfer are kept: the names of what an archive holds are among them.
const MAX_SAID: usize = 256;

/// With its registry, and with a tag: without one, Docker pulls every tag there is.
fn full_name(reference: &Reference) -> String {
    reference.whole()
}

/// The name or id in what Docker says about an archive that it has loaded.
fn loaded_name(said: &str) -> Option<String> {
    let said = said.trim_end();
    let name = said.strip_prefix("Loaded image: ").or_else(|| said.strip_prefix("Loaded image ID: "))?;
    Some(name.to_owned())
}

/// The image that is meant, of those that an archive holds.
fn choose(mut holds: Vec<String>, wanted: Option<&str>) -> Result<String, ImageError> {
    let Some(wanted) = wanted else {
        return match (holds.pop(), holds.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                holds.push(last);
                Err(ImageError::NameNeeded { holds })
            }
            (None, _) => Err(ImageError::Invalid { reason: "the archive holds no image".to_owned() }),
        };
    };
    let is_wanted = |name: &&String| *name == wanted || **name == format!("{wanted}:latest");
    match holds.iter().find(is_wanted) {
        Some(name) => Ok(name.clone()),
        None => Err(ImageError::NotInArchive { name: wanted.to_owned(), holds }),
    }
}

fn split(entry: &str) -> Option<(String, String)> {
    entry.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))
}

async fn read(path: &Path) -> Result<impl Stream<Item = io::Result<bytes::Bytes>> + Send + 'static, Fault> {
    let file = tokio::fs::File::open(path).await.map_err(|error| of_file(path, error))?;
    Ok(ReaderStream::with_capacity(file, CHUNK))
}

/// Of a path that the caller named: that it is not there is the caller's fault, all else the host's.
fn of_file(path: &Path, source: io::Error) -> Fault {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Fault::Image(ImageError::NotFound),
        _ => Fault::Engine(EngineError::Step { step: format!("read {}", path.display()), source }),
    }
}

fn docker_credentials(Credentials { server, user, proof }: Credentials) -> DockerCredentials {
    let (password, identitytoken) = match proof {
        Proof::Password(password) => (Some(password), None),
        Proof::IdentityToken(token) => (None, Some(token)),
    };
    let (username, serveraddress) = (Some(user), Some(server));
    DockerCredentials { username, password, identitytoken, serveraddress, ..DockerCredentials::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_is_the_latest_one_and_a_digest_stays() {
        let full = |name: &str| full_name(&name.parse().unwrap());
        assert_eq!(full("debian"), "docker.io/library/debian:latest");
        assert_eq!(full("registry.local:5000/a/b:1"), "registry.local:5000/a/b:1");
        let digest = format!("debian@sha256:{}", "0".repeat(64));
        assert_eq!(full(&digest), format!("docker.io/library/{digest}"));
    }

    #[test]
    fn the_images_of_an_archive_are_those_that_docker_names() {
        assert_eq!(loaded_name("Loaded image: a:1\n").as_deref(), Some("a:1"));
        assert_eq!(loaded_name("Loaded image ID: sha256:0\n").as_deref(), Some("sha256:0"));
        assert_eq!(loaded_name("The image a:1 already exists\n"), None);
    }

    #[test]
    fn of_several_images_one_has_to_be_named() {
        let holds = || vec!["a:latest".to_owned(), "b:1".to_owned()];
        assert_eq!(choose(holds(), Some("a")).unwrap(), "a:latest");
        assert_eq!(choose(holds(), Some("b:1")).unwrap(), "b:1");
        assert!(matches!(choose(holds(), None), Err(ImageError::NameNeeded { holds }) if holds.len() == 2));
        assert!(matches!(choose(holds(), Some("c")), Err(ImageError::NotInArchive { .. })));
        assert_eq!(choose(vec!["a:1".to_owned()], None).unwrap(), "a:1");
        assert!(matches!(choose(Vec::new(), None), Err(ImageError::Invalid { .. })));
    }
}
