//! Writes the machines of this tree to a directory, as `cargo xtask machines` asks for: a file a version.

use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let directory: PathBuf = env::args_os().nth(1).context("say into which directory")?.into();
    fs::create_dir_all(&directory)?;
    for (name, component) in [("kv-1.0.0", host::runtime::BUILT_IN), ("kv-1.1.0", machines::KV_1_1)]
    {
        let path = directory.join(format!("{name}.wasm"));
        fs::write(&path, component).with_context(|| path.display().to_string())?;
        println!("{}", path.display());
    }
    Ok(())
}
