//! Compiles the protobufs and builds the guest, which is embedded into the daemon.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The guest is built by this very script, without the feature: then there is nothing to prepare.
    #[cfg(feature = "daemon")]
    daemon::prepare();
}

#[cfg(feature = "daemon")]
mod daemon {
    use std::env;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    const PROTOS: [&str; 5] = [
        "hands/v1/errors.proto",
        "hands/v1/hands.proto",
        "hands/v1/node.proto",
        "hands/v1/sandboxes.proto",
        "hands/v1/sessions.proto",
    ];

    pub fn prepare() {
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        compile_protos(&out);
        build_guest(&out);
    }

    /// With protox, so that no `protoc` has to be installed.
    fn compile_protos(out: &Path) {
        println!("cargo::rerun-if-changed=proto");
        let mut compiler = protox::Compiler::new(["proto"]).expect("proto/ is there");
        compiler.include_imports(true).include_source_info(true).open_files(PROTOS).expect("the protobufs compile");
        fs::write(out.join("hands.v1.bin"), compiler.encode_file_descriptor_set()).expect("OUT_DIR can be written");
        tonic_prost_build::configure()
            .bytes(".hands.v1.Output.data")
            .bytes(".hands.v1.ReadResponse.data")
            .bytes(".hands.v1.WriteRequest.data")
            .bytes(".hands.v1.InputRequest.data")
            .bytes(".hands.v1.ForwardRequest.data")
            .bytes(".hands.v1.ForwardResponse.data")
            .btree_map(".")
            .compile_fds(compiler.file_descriptor_set())
            .expect("the protobufs generate");
    }

    /// Builds `hands-guest` static in a target directory of its own (cargo holds a lock on the outer one). For glibc,
    /// because no musl target is needed then; `--target` keeps the flags away from build scripts and macros.
    fn build_guest(out: &Path) {
        for path in ["src/guest", "src/lib.rs", "src/bin/hands-guest.rs", "Cargo.toml", "Cargo.lock"] {
            println!("cargo::rerun-if-changed={path}");
        }
        let target = env::var("TARGET").expect("cargo sets TARGET");
        let directory = out.join("guest");
        let status = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"))
            .args(["build", "--bin", "hands-guest", "--no-default-features", "--locked"])
            .args(["--profile", "guest", "--target", &target, "--target-dir"])
            .arg(&directory)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static")
            .status()
            .expect("cargo starts");
        assert!(status.success(), "the guest does not build");
        let binary = directory.join(target).join("guest/hands-guest");
        println!("cargo::rustc-env=HANDS_GUEST={}", binary.display());
    }
}
