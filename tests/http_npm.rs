//! Published npm clients, unmodified and in strict TypeScript, against the real daemon.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use handsd::api::proto::PreviewRequest;
use support::http::Http;
use tokio::process::Command;
use tokio::sync::OnceCell;

mod support;

/// The client wants a global WebSocket, which Node 20 has behind this flag and later versions have anyway.
const WEBSOCKET: &str = "--experimental-websocket";

/// Where the compiled tests are; `None` if this machine cannot make them, which it says.
async fn build() -> Option<&'static Path> {
    static BUILD: OnceCell<Option<PathBuf>> = OnceCell::const_new();
    BUILD.get_or_init(make).await.as_deref()
}

async fn make() -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/npm");
    for (program, arguments) in [("npm", ["--version"].as_slice()), ("node", &[WEBSOCKET, "--version"])] {
        let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
        if !status.is_ok_and(|status| status.success()) {
            println!("skipped: needs npm and Node 20");
            return None;
        }
    }
    let install = Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&source).output().await;
    let install = install.expect("npm is there");
    if !install.status.success() {
        println!("skipped: npm cannot install the client: {}", String::from_utf8_lossy(&install.stderr));
        return None;
    }
    let tsc = Command::new("npm").args(["run", "--silent", "build"]).current_dir(&source).output().await;
    let tsc = tsc.expect("npm is there");
    assert!(tsc.status.success(), "{}", String::from_utf8_lossy(&tsc.stdout));
    Some(source.join("build"))
}

/// Runs a compiled test against the node, and prints what it says.
async fn run(http: &Http, script: &Path, env: &[(&str, &str)]) {
    let mut node = Command::new("node");
    node.arg(WEBSOCKET).arg(script).kill_on_drop(true);
    node.env("HANDSD_URL", format!("http://{}", http.address)).env("HANDSD_API_KEY", &http.key);
    node.envs(env.iter().copied());
    let output = node.output().await.expect("node is there");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_class_works_end_to_end() {
    let Some(build) = build().await else { return };
    let Some(http) = Http::start().await else { return };
    run(&http, &build.join("sandbox.js"), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_sessions_work_end_to_end() {
    let Some(build) = build().await else { return };
    let Some(http) = Http::start().await else { return };
    run(&http, &build.join("sessions.js"), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_sent_signed_retried_and_kept_apart() {
    let Some(build) = build().await else { return };
    let config = "[http]\nprivate_webhooks = true\nwebhook_retry = '20ms'";
    let Some(http) = Http::configured(config).await else { return };
    run(&http, &build.join("webhooks.js"), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_client_of_mcp_uses_the_tools_of_sandboxes_and_sessions() {
    let Some(build) = build().await else { return };
    let Some(http) = Http::start().await else { return };
    run(&http, &build.join("mcp.js"), &[]).await;
}

/// Debian's name of the browser, and that of others.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// The browser of this machine; if there is none, it says so.
fn browser() -> Option<String> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let programs = std::env::split_paths(&paths).flat_map(|path| BROWSERS.map(|name| path.join(name)));
    let found = programs.into_iter().find(|program| program.is_file());
    if found.is_none() {
        println!("skipped: needs Chromium");
    }
    found.map(|program| program.to_str().expect("a plain path").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_does_what_an_operator_needs() {
    let (Some(build), Some(browser)) = (build().await, browser()) else { return };
    let Some(http) = Http::start().await else { return };
    run(&http, &build.join("page.js"), &[("CHROMIUM", &browser)]).await;
}

/// A development server that reloads pages hot, and where it is installed: not with the client, because it brings programs
/// for this machine, of which a lock file would name those of all others. If it cannot be installed, it says so.
async fn install_vite() -> Option<PathBuf> {
    const VITE: &str = "vite@6.4.6";
    let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join(VITE);
    let modules = prefix.join("node_modules");
    if !modules.join("vite").exists() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--prefix"]);
        let installed = npm.arg(&prefix).arg(VITE).output().await.expect("npm is there");
        if !installed.status.success() {
            println!("skipped: npm cannot install vite: {}", String::from_utf8_lossy(&installed.stderr));
            return None;
        }
    }
    Some(modules)
}

#[tokio::test(flavor = "multi_thread")]
async fn previews_of_development_servers_reload_hot_and_outlive_a_sleep() {
    let (Some(build), Some(browser)) = (build().await, browser()) else { return };
    if !Path::new("/usr/bin/node").exists() || !Path::new("/usr/bin/python3").exists() {
        println!("skipped: needs /usr/bin/node and /usr/bin/python3, which the node's image has");
        return;
    }
    let Some(modules) = install_vite().await else { return };
    let Some(http) = Http::start().await else { return };
    let sandbox = http.daemon.sandbox().await;
    let preview = async |port: u32| {
        let request = PreviewRequest { sandbox_id: sandbox.id.clone(), port };
        http.daemon.sandboxes().preview(request).await.expect("HTTP is served").into_inner().url
    };
    let env = [
        ("CHROMIUM", browser.as_str()),
        ("HANDS", env!("CARGO_BIN_EXE_hands")),
        ("HANDS_ADDR", &http.daemon.address()),
        ("HANDSD_MODULES", modules.to_str().expect("a plain path")),
        ("HANDSD_SANDBOX", &sandbox.id),
        ("HANDSD_PLAIN", &preview(8000).await),
        ("HANDSD_VITE", &preview(5173).await),
    ];
    run(&http, &build.join("preview.js"), &env).await;
}
