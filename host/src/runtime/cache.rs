//! Compiled components on disk. Only a cache: whatever is missing, damaged or of another version is compiled anew.
//!
//! A file is named by the component's hash and by the execution environment, and holds the XXH3-128 of the artefact,
//! then the artefact. The engine adds its version, its settings and the processor's features, and checks them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use wasmtime::{Engine, component::Component};
use xxhash_rust::xxh3::xxh3_128;

use super::ENVIRONMENT;

const DIGEST_BYTES: usize = 16;

/// The component's compiled form, from the cache if it is there. `digest` is the component's hash.
pub(super) fn compiled(
    engine: &Engine,
    folder: Option<&Path>,
    digest: &[u8; 32],
    component: &[u8],
) -> wasmtime::Result<Component> {
    let Some(folder) = folder else { return Component::from_binary(engine, component) };
    let path = path(folder, digest);
    match read(engine, &path) {
        Ok(Some(component)) => return Ok(component),
        Ok(None) => {}
        Err(reason) => {
            tracing::warn!(path = %path.display(), "compiling anew: the compiled machine is of no use: {reason}");
        }
    }
    let component = Component::from_binary(engine, component)?;
    if let Err(error) = write(&path, &component.serialize()?) {
        tracing::warn!(path = %path.display(), "the compiled machine is not kept: {error}");
    }
    Ok(component)
}

fn path(folder: &Path, digest: &[u8; 32]) -> PathBuf {
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    folder.join(format!("{hash}-{}.cwasm", ENVIRONMENT.replace('/', "-")))
}

fn read(engine: &Engine, path: &Path) -> Result<Option<Component>, String> {
    let file = match fs::read(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let Some((digest, artefact)) = file.split_first_chunk::<DIGEST_BYTES>() else {
        return Err("it is too short".to_owned());
    };
    if xxh3_128(artefact).to_le_bytes() != *digest {
        return Err("it is damaged".to_owned());
    }
    deserialize(engine, artefact).map(Some).map_err(|error| format!("{error:#}"))
}

#[expect(
    unsafe_code,
    reason = "The engine cannot check that machine code is what its own compiler wrote. This file is written by \
              `write` below alone, in the member's own data directory, and damage is ruled out by its digest; whoever \
              may write there else may replace the member's whole state as well."
)]
fn deserialize(engine: &Engine, artefact: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `artefact` is what `Component::serialize` returned to an earlier process; see above.
    unsafe { Component::deserialize(engine, artefact) }
}

/// Puts a file in place as a whole, or not at all.
fn write(path: &Path, artefact: &[u8]) -> io::Result<()> {
    let mut file = Vec::with_capacity(DIGEST_BYTES + artefact.len());
    file.extend_from_slice(&xxh3_128(artefact).to_le_bytes());
    file.extend_from_slice(artefact);
    let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&unfinished, file)?;
    fs::rename(&unfinished, path)
}
