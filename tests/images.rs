//! Images as they are found in the world: archives as Docker and others write them, and registries, honest and not.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use handsd::image::{Image, ImageError, ImageRef, ImageSettings, ImageStore, Ownership};
use oci_client::client::{Client, ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use registry::{Registry, Users};

#[path = "support/registry.rs"]
mod registry;

/// This machine's architecture, as Go spells it.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// A store in a directory of its own.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn store(&self) -> ImageStore {
        let settings = ImageSettings { ownership: Ownership::Own, ..ImageSettings::default() };
        ImageStore::open(self.path("images"), settings).unwrap()
    }

    async fn resolve(&self, image: &ImageRef) -> Result<Image, ImageError> {
        self.store().resolve(image).await
    }

    /// Writes an archive and resolves the image in it.
    async fn resolve_archive(&self, bytes: &[u8], name: Option<&str>) -> Result<Image, ImageError> {
        let path = self.path("archive.tar");
        fs::write(&path, bytes).unwrap();
        self.resolve(&ImageRef::Archive(path, name.map(str::to_owned))).await
    }

    /// Layers in the store, and what may be left of failed ones.
    fn layers(&self) -> usize {
        fs::read_dir(self.path("images/owned")).map_or(0, Iterator::count)
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn hex(bytes: &[u8]) -> String {
    digest(bytes).replace("sha256:", "")
}

/// A tar of files; a content that begins with "->" is a symbolic link.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, contents) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        if let Some(target) = contents.strip_prefix(b"->") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, name, std::str::from_utf8(target).unwrap()).unwrap();
        } else {
            header.set_size(contents.len() as u64);
            builder.append_data(&mut header, name, *contents).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
    let config = json!({
        "os": "linux", "architecture": ARCHITECTURE,
        "config": {"User": "app", "Env": ["PATH=/bin"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    config.to_string().into_bytes()
}

/// The file as the sandbox would see it, whiteouts aside: that of the uppermost layer that has it.
fn file_of(image: &Image, name: &str) -> Option<String> {
    image.trees[0].layers.iter().find_map(|layer| fs::read_to_string(layer.join(name)).ok())
}

fn invalid(result: Result<Image, ImageError>) -> String {
    match result {
        Err(ImageError::Invalid { reason }) => reason,
        other => panic!("expected Invalid, got {other:?}"),
    }
}

fn assert_is_the_app(image: &Image) {
    assert_eq!(image.user.as_deref(), Some("app"));
    assert_eq!(image.env, [("PATH".to_owned(), "/bin".to_owned())].into());
    assert_eq!(image.trees.len(), 1);
    assert_eq!(image.trees[0].target, Path::new("/"));
    assert_eq!(image.trees[0].layers.len(), 2);
    assert_eq!(file_of(image, "file").as_deref(), Some("upper"));
    assert_eq!(file_of(image, "base").as_deref(), Some("base"));
}

/// Two layers of which the upper replaces a file of the lower.
fn app_layers() -> [Vec<u8>; 2] {
    [tar(&[("file", b"lower"), ("base", b"base")]), tar(&[("file", b"upper"), (".wh.gone", b"")])]
}

/// As Docker before version 25 saved it: a directory for each layer, one of them a link to that of another image.
fn old_docker_save() -> Vec<u8> {
    let [lower, upper] = app_layers();
    let app = config(&[&lower, &upper]);
    let base = config(&[&lower]);
    let (app_name, base_name) = (format!("{}.json", hex(&app)), format!("{}.json", hex(&base)));
    let manifest = json!([
        {"Config": base_name, "RepoTags": ["base:1"], "Layers": ["aaa/layer.tar"]},
        {"Config": app_name, "RepoTags": ["app:latest", "app:2"], "Layers": ["bbb/layer.tar", "ccc/layer.tar"]},
    ]);
    tar(&[
        ("aaa/VERSION", b"1.0"),
        ("aaa/layer.tar", &lower),
        ("bbb/layer.tar", b"->../aaa/layer.tar"),
        ("ccc/layer.tar", &upper),
        (&app_name, &app),
        (&base_name, &base),
        ("manifest.json", manifest.to_string().as_bytes()),
    ])
}

#[tokio::test]
async fn an_archive_of_an_old_docker_is_an_image() {
    let place = Place::new();
    assert_is_the_app(&place.resolve_archive(&old_docker_save(), Some("app:2")).await.unwrap());
    assert_is_the_app(&place.resolve_archive(&old_docker_save(), Some("docker.io/library/app")).await.unwrap());
}

#[tokio::test]
async fn which_of_several_images_is_meant_must_be_said() {
    let place = Place::new();
    let Err(ImageError::NameNeeded { holds }) = place.resolve_archive(&old_docker_save(), None).await else {
        panic!("a name is needed")
    };
    assert_eq!(holds, ["app:2", "app:latest", "base:1"]);
    let error = place.resolve_archive(&old_docker_save(), Some("other")).await.unwrap_err();
    assert!(matches!(&error, ImageError::NotInArchive { name, .. } if name == "other"), "{error:?}");
    assert!(error.to_string().contains("app:2, app:latest, base:1"), "{error}");
}

/// As Docker saves it since version 25.
fn new_docker_save(layers: &[&[u8]], config: &[u8]) -> Vec<u8> {
    let path = |bytes: &[u8]| format!("blobs/sha256/{}", hex(bytes));
    let paths: Vec<_> = layers.iter().map(|layer| path(layer)).collect();
    let manifest = json!([{"Config": path(config), "RepoTags": null, "Layers": paths}]).to_string();
    let config_path = path(config);
    let mut files = vec![("manifest.json", manifest.as_bytes()), ("index.json", b"{}"), (&config_path, config)];
    files.extend(paths.iter().zip(layers).map(|(path, layer)| (path.as_str(), *layer)));
    tar(&files)
}

#[tokio::test]
async fn an_archive_of_a_new_docker_is_an_image_also_compressed() {
    let [lower, upper] = app_layers();
    let archive = new_docker_save(&[&lower, &upper], &config(&[&lower, &upper]));
    for archive in [gzip(&archive), zstd(&archive), archive] {
        assert_is_the_app(&Place::new().resolve_archive(&archive, None).await.unwrap());
    }
}

#[tokio::test]
async fn compressed_layers_are_verified_by_what_is_in_them() {
    let [lower, upper] = app_layers();
    let (packed_lower, packed_upper) = (gzip(&lower), zstd(&upper));
    let archive = new_docker_save(&[&packed_lower, &packed_upper], &config(&[&lower, &upper]));
    assert_is_the_app(&Place::new().resolve_archive(&archive, None).await.unwrap());
    let place = Place::new();
    let archive = new_docker_save(&[&packed_lower, &packed_upper], &config(&[&lower, b"another"]));
    assert!(invalid(place.resolve_archive(&archive, None).await).contains("has the digest"));
    assert_eq!(place.layers(), 1, "the good one may stay, of the other nothing");
}

#[tokio::test]
async fn an_archive_that_contradicts_itself_is_refused() {
    let place = Place::new();
    let [lower, upper] = app_layers();
    let fewer = new_docker_save(&[&lower, &upper], &config(&[&lower]));
    assert!(invalid(place.resolve_archive(&fewer, None).await).contains("digest for each layer"));
    let name = format!("{}.json", hex(b"another"));
    let manifest = json!([{"Config": name, "RepoTags": [], "Layers": ["l"]}]).to_string();
    let config = config(&[&lower]);
    let wrong_config = tar(&[("manifest.json", manifest.as_bytes()), (&name, &config), ("l", &lower)]);
    assert!(invalid(place.resolve_archive(&wrong_config, None).await).contains("has the digest"));
    for layer in ["missing", "loop", "out", "../x", "/etc/passwd"] {
        let manifest = json!([{"Config": "c", "RepoTags": [], "Layers": [layer]}]).to_string();
        let files: &[(&str, &[u8])] = &[("manifest.json", manifest.as_bytes()), ("c", &config), ("loop", b"->loop")];
        invalid(place.resolve_archive(&tar(files), None).await);
    }
    invalid(place.resolve_archive(&tar(&[("manifest.json", b"[]")]), None).await);
    invalid(place.resolve_archive(&tar(&[("readme", b"hello")]), None).await);
    invalid(place.resolve_archive(&tar(&[("out", b"->../../etc/passwd")]), None).await);
    invalid(place.resolve_archive(&old_docker_save()[..3000], None).await);
    assert_eq!(place.layers(), 0);
}

fn descriptor(kind: &str, blob: &[u8]) -> Value {
    json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(blob), "size": blob.len()})
}

/// The blobs of an image in two layers, its manifest last.
fn oci_blobs() -> Vec<Vec<u8>> {
    let [lower, upper] = app_layers();
    let config = config(&[&lower, &upper]);
    let (lower, upper) = (gzip(&lower), zstd(&upper));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": descriptor("config.v1+json", &config),
        "layers": [descriptor("layer.v1.tar+gzip", &lower), descriptor("layer.v1.tar+zstd", &upper)],
    });
    vec![lower, upper, config, manifest.to_string().into_bytes()]
}

fn oci_layout(index: &Value, blobs: &[Vec<u8>]) -> Vec<u8> {
    let paths: Vec<_> = blobs.iter().map(|blob| format!("blobs/sha256/{}", hex(blob))).collect();
    let index = index.to_string();
    let mut files =
        vec![("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#.as_slice()), ("index.json", index.as_bytes())];
    files.extend(paths.iter().zip(blobs).map(|(path, blob)| (path.as_str(), blob.as_slice())));
    tar(&files)
}

#[tokio::test]
async fn an_oci_layout_is_searched_for_this_platform() {
    let mut blobs = oci_blobs();
    let mut ours = descriptor("manifest.v1+json", &blobs[3]);
    ours["platform"] = json!({"os": "linux", "architecture": ARCHITECTURE});
    let mut other = descriptor("manifest.v1+json", b"not in the archive");
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let inner = json!({"schemaVersion": 2, "manifests": [other, ours]}).to_string().into_bytes();
    let mut named = descriptor("index.v1+json", &inner);
    named["annotations"] = json!({"org.opencontainers.image.ref.name": "app:2"});
    blobs.push(inner);
    let archive = oci_layout(&json!({"schemaVersion": 2, "manifests": [named.clone()]}), &blobs);
    assert_is_the_app(&Place::new().resolve_archive(&archive, None).await.unwrap());
    assert_is_the_app(&Place::new().resolve_archive(&archive, Some("app:2")).await.unwrap());
    let error = Place::new().resolve_archive(&archive, Some("app:3")).await.unwrap_err();
    assert!(matches!(error, ImageError::NotInArchive { .. }), "{error:?}");
    let mut again = named.clone();
    again["annotations"] = json!({"io.containerd.image.name": "docker.io/library/app:3"});
    let archive = oci_layout(&json!({"schemaVersion": 2, "manifests": [named, again]}), &blobs);
    for name in [None, Some("app:2"), Some("app:3")] {
        assert_is_the_app(&Place::new().resolve_archive(&archive, name).await.unwrap());
    }
    let archive = oci_layout(&json!({"schemaVersion": 2, "manifests": [other]}), &blobs);
    assert!(invalid(Place::new().resolve_archive(&archive, None).await).contains("linux/"));
}

#[tokio::test]
async fn every_blob_of_an_oci_layout_is_verified() {
    for damaged in 0..4 {
        let place = Place::new();
        let blobs = oci_blobs();
        let index = json!({"schemaVersion": 2, "manifests": [descriptor("manifest.v1+json", &blobs[3])]});
        let archive = oci_layout(&index, &blobs);
        // The last byte of the blob in the archive.
        let at = archive.windows(blobs[damaged].len()).position(|window| window == blobs[damaged]).unwrap();
        let mut archive = archive;
        archive[at + blobs[damaged].len() - 1] ^= 1;
        invalid(place.resolve_archive(&archive, None).await);
        assert!(place.layers() <= 1, "no damaged layer is kept");
    }
}

/// A registry that says what a test wants it to say.
struct FakeRegistry {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakeRegistry {
    /// Answers with the bytes of a path, and 404 for all others. Its thread ends with the test's process.
    fn serve(answers: HashMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                answer(connection.unwrap(), &answers, &log);
            }
        });
        Self { port, asked }
    }

    fn image(&self, tag: &str) -> ImageRef {
        format!("docker://127.0.0.1:{}/app{tag}", self.port).parse().unwrap()
    }

    fn asked_for(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.contains(path)).count()
    }
}

fn answer(mut connection: TcpStream, answers: &HashMap<String, Vec<u8>>, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let mut request = String::new();
    reader.read_line(&mut request).unwrap();
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 2 {
        line.clear();
    }
    let path = request.split(' ').nth(1).unwrap().to_owned();
    let (status, body) = match answers.get(&path) {
        Some(body) => ("200 OK", body.as_slice()),
        None => ("404 Not Found", b"{}".as_slice()),
    };
    log.lock().unwrap().push(path);
    // A client that has had enough hangs up.
    let _ = write!(connection, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = connection.write_all(body);
}

/// What an honest registry answers for the app.
fn app_in_registry() -> HashMap<String, Vec<u8>> {
    let blobs = oci_blobs();
    let mut answers = HashMap::from([("/v2/".to_owned(), b"{}".to_vec())]);
    for name in ["latest".to_owned(), "2".to_owned(), digest(&blobs[3])] {
        answers.insert(format!("/v2/app/manifests/{name}"), blobs[3].clone());
    }
    answers.extend(blobs.into_iter().map(|blob| (format!("/v2/app/blobs/{}", digest(&blob)), blob)));
    answers
}

fn blob_path(index: usize) -> String {
    format!("/v2/app/blobs/{}", digest(&oci_blobs()[index]))
}

#[tokio::test]
async fn an_image_is_pulled_once_for_all_who_ask() {
    let (place, registry) = (Place::new(), FakeRegistry::serve(app_in_registry()));
    let (store, image) = (place.store(), registry.image(":2"));
    let asking = (0..8).map(|_| store.resolve(&image));
    for resolved in futures_util::future::join_all(asking).await {
        assert_is_the_app(&resolved.unwrap());
    }
    assert_is_the_app(&store.resolve(&image).await.unwrap());
    assert_is_the_app(&place.resolve(&image).await.unwrap());
    for layer in 0..2 {
        assert_eq!(registry.asked_for(&blob_path(layer)), 1);
    }
    // Another name for it has a manifest of its own, and the same layers.
    assert_is_the_app(&store.resolve(&registry.image("")).await.unwrap());
    assert_eq!(registry.asked_for("/manifests/"), 2);
    assert_eq!(registry.asked_for(&blob_path(0)), 1);
}

#[tokio::test]
async fn a_registry_that_sends_other_bytes_is_found_out() {
    for blob in 0..4 {
        let changes: [fn(&mut Vec<u8>); 3] =
            [|blob| *blob.last_mut().unwrap() ^= 1, |blob| blob.push(0), |blob| blob.truncate(blob.len() - 1)];
        for change in changes {
            let mut answers = app_in_registry();
            let path =
                if blob == 3 { format!("/v2/app/manifests/{}", digest(&oci_blobs()[3])) } else { blob_path(blob) };
            change(answers.get_mut(&path).unwrap());
            let (place, registry) = (Place::new(), FakeRegistry::serve(answers));
            let image = registry.image(&format!("@{}", digest(&oci_blobs()[3])));
            invalid(place.resolve(&image).await);
            assert!(place.layers() <= 1, "no damaged layer is kept");
        }
    }
}

#[tokio::test]
async fn a_layer_larger_than_the_image_may_be_is_not_begun() {
    let (place, registry) = (Place::new(), FakeRegistry::serve(app_in_registry()));
    let settings = ImageSettings { ownership: Ownership::Own, max_unpacked_bytes: 10, ..ImageSettings::default() };
    let store = ImageStore::open(place.path("images"), settings).unwrap();
    let error = store.resolve(&registry.image("")).await.unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error:?}");
    assert_eq!(registry.asked_for(&blob_path(0)), 0);
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_a_failed_pull() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let image = format!("docker://127.0.0.1:{port}/app").parse().unwrap();
    let error = Place::new().resolve(&image).await.unwrap_err();
    assert!(
        matches!(&error, ImageError::Pull { registry, .. } if *registry == format!("127.0.0.1:{port}")),
        "{error:?}"
    );
}

/// Debian's registry on a port of its own, with the app in it.
async fn registry_with_app(users: Users) -> Option<(Registry, String)> {
    let registry = Registry::start(users)?;
    let auth = match users {
        Users::Everybody => RegistryAuth::Anonymous,
        Users::Ada => RegistryAuth::Basic("ada".to_owned(), "hush".to_owned()),
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
    let [lower, upper] = app_layers();
    let config = Config::oci_v1(config(&[&lower, &upper]), None);
    let layers = [ImageLayer::oci_v1_gzip(gzip(&lower), None), ImageLayer::oci_v1(upper, None)];
    let name = registry.name("team/app:2").parse().unwrap();
    client.push(&name, &layers, config, &auth, None).await.unwrap();
    let digest = client.fetch_manifest_digest(&name, &auth).await.unwrap();
    Some((registry, digest))
}

#[tokio::test]
async fn what_was_pushed_to_a_real_registry_is_pulled_from_it() {
    let Some((registry, digest)) = registry_with_app(Users::Everybody).await else { return };
    let place = Place::new();
    for name in ["team/app:2".to_owned(), format!("team/app@{digest}"), format!("team/app:2@{digest}")] {
        let image = format!("docker://{}", registry.name(&name)).parse().unwrap();
        assert_is_the_app(&place.resolve(&image).await.unwrap());
    }
    let wrong = format!("team/app@sha256:{}", "0".repeat(64));
    for missing in ["team/app:3", "team/other:2", "team/app", wrong.as_str()] {
        let image = registry.name(missing).parse().unwrap();
        let error = place.resolve(&image).await.unwrap_err();
        assert!(matches!(error, ImageError::NotFound), "{missing}: {error:?}");
    }
    // What is there is used, also when the registry is gone.
    let image = registry.name("team/app:2").parse().unwrap();
    drop(registry);
    assert_is_the_app(&place.resolve(&image).await.unwrap());
}

#[tokio::test]
async fn a_registry_that_asks_who_we_are_is_told_what_the_file_says() {
    let Some((registry, _)) = registry_with_app(Users::Ada).await else { return };
    let place = Place::new();
    let file = place.path("config.json");
    let image = registry.name("team/app:2").parse().unwrap();
    let settings =
        ImageSettings { ownership: Ownership::Own, credentials: Some(file.clone()), ..ImageSettings::default() };
    let store = ImageStore::open(place.path("images"), settings).unwrap();
    let host = registry.name("");
    // Without the file, with a wrong password, and with the right one, each as it is at the time.
    for auth in [None, Some("YWRhOndyb25n")] {
        if let Some(auth) = auth {
            fs::write(&file, format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#)).unwrap();
        }
        let error = store.resolve(&image).await.unwrap_err();
        assert!(matches!(error, ImageError::Pull { .. } | ImageError::PullRefused { .. }), "{error:?}");
    }
    fs::write(&file, format!(r#"{{"auths":{{"{host}":{{"auth":"YWRhOmh1c2g="}}}}}}"#)).unwrap();
    assert_is_the_app(&store.resolve(&image).await.unwrap());
}

/// What is seen in the overlay of an image, one line for each file: its name and its content.
fn seen_in_overlay(image: &Image, options: &str) -> String {
    let layers: Vec<_> = image.trees[0].layers.iter().map(|layer| layer.to_str().unwrap()).collect();
    let script = format!(
        "mkdir -p $0/mnt && mount -t overlay overlay -o ro,lowerdir={}{options} $0/mnt && cd $0/mnt && \
         find . -type f | sort | while read -r name; do echo \"$name $(cat $name)\"; done",
        layers.join(":")
    );
    let place = tempfile::tempdir().unwrap();
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &script]).arg(place.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_kernel_stacks_the_layers_as_the_image_means_them() {
    let may_mount =
        Command::new("unshare").args(["--mount", "true"]).output().is_ok_and(|output| output.status.success());
    if !may_mount {
        return eprintln!("skipped: only root mounts overlays");
    }
    let lower = tar(&[
        ("gone", b"1"),
        ("kept", b"1"),
        ("replaced", b"1"),
        ("hidden/old", b"1"),
        ("anew/old", b"1"),
        ("merged/old", b"1"),
    ]);
    let upper = tar(&[
        (".wh.gone", b""),
        ("replaced", b"2"),
        ("hidden/.wh..wh..opq", b""),
        ("hidden/new", b"2"),
        (".wh.anew", b""),
        ("anew/new", b"2"),
        ("merged/new", b"2"),
    ]);
    let archive = new_docker_save(&[&lower, &upper], &config(&[&lower, &upper]));
    for (ownership, options) in [(Ownership::Keep, ""), (Ownership::Own, ",userxattr")] {
        let place = Place::new();
        let path = place.path("archive.tar");
        fs::write(&path, &archive).unwrap();
        let settings = ImageSettings { ownership, ..ImageSettings::default() };
        let store = ImageStore::open(place.path("images"), settings).unwrap();
        let image = store.resolve(&ImageRef::Archive(path, None)).await.unwrap();
        let expected = "./anew/new 2\n./hidden/new 2\n./kept 1\n./merged/new 2\n./merged/old 1\n./replaced 2\n";
        assert_eq!(seen_in_overlay(&image, options), expected, "{ownership:?}");
    }
}
