//! A module in C: what `module build` and `module test` do in a directory of it.
//!
//! The contract is written down as `module.h`, and clang compiles all files of the directory with what it takes to
//! stand alone: there is no library of C's below a module but the few functions in `sdk/c`. A file that ends in
//! `_test.c` is a program of its own, for the machine that it is built on.

use std::path::{Path, PathBuf};
use std::process::Command;

use wit_bindgen_c::Opts;
use wit_bindgen_core::{Files, wit_parser::Resolve};

use super::module_project::BUILD;
use crate::failure::Failure;

const CONTRACT: &str = include_str!("../../../wit/module/module.wit");
/// What is compiled with every module, below [`BUILD`].
const LIBRARY: [(&str, &str); 3] = [
    ("include/stdlib.h", include_str!("../../../sdk/c/include/stdlib.h")),
    ("include/string.h", include_str!("../../../sdk/c/include/string.h")),
    ("library.c", include_str!("../../../sdk/c/library.c")),
];

const COMPILER: &str = "clang";
const FLAGS: [&str; 11] = [
    "--target=wasm32",
    "-std=c17",
    "-Os",
    "-Wall",
    "-Wextra",
    // Copying bytes is one instruction.
    "-mbulk-memory",
    "-nostdlib",
    "-nostdlibinc",
    "-Wl,--no-entry,--gc-sections,--strip-debug",
    // In bytes; the linker's own default is less than what a parser needs.
    "-Wl,-z,stack-size=131072",
    // What uses too much stack is to trap there, and not to write over what lies below.
    "-Wl,--stack-first",
];

/// The files of C of a directory.
pub(super) struct Sources {
    module: Vec<PathBuf>,
    tests: Vec<PathBuf>,
}

impl Sources {
    /// Those of the directory that this is called in.
    pub fn here() -> Result<Self, Failure> {
        let mut sources = Sources { module: Vec::new(), tests: Vec::new() };
        for entry in std::fs::read_dir(".")? {
            let path = PathBuf::from(entry?.file_name());
            match path.to_string_lossy().strip_suffix(".c") {
                Some(name) if name.ends_with("_test") => sources.tests.push(path),
                Some(_) => sources.module.push(path),
                None => {}
            }
        }
        sources.module.sort();
        sources.tests.sort();
        match sources.module.is_empty() {
            true => Err(Failure::error("there is no module in this directory").with_hint(
                "`instarctl module new` makes one; a directory with files of C is one too",
            )),
            false => Ok(sources),
        }
    }
}

/// Builds the core module, and says where it is.
pub(super) fn build(sources: &Sources) -> Result<String, Failure> {
    let generated = Path::new(BUILD);
    let (files, compiled) = glue()?;
    for (name, bytes) in &files {
        let path = generated.join(name);
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(path, bytes)?;
    }
    let core = format!("{BUILD}/core.wasm");
    let mut compiler = Command::new(COMPILER);
    compiler.args(FLAGS).arg("-isystem").arg(generated.join("include")).arg("-I").arg(generated);
    compiler.args(compiled.iter().map(|name| generated.join(name)));
    compiler.args(&sources.module).args(["-o", &core]);
    run(&mut compiler, "modules in C need clang and wasm-ld: Debian's packages clang and lld")?;
    Ok(core)
}

/// Runs each of the tests.
pub(super) fn test(sources: &Sources) -> Result<(), Failure> {
    if sources.tests.is_empty() {
        return Err(Failure::error("there is no file here whose name ends in _test.c"));
    }
    std::fs::create_dir_all(BUILD)?;
    for source in &sources.tests {
        let program = Path::new(BUILD).join(source.with_extension(""));
        let mut compiler = Command::new("cc");
        compiler.args(["-std=c17", "-g", "-Wall", "-Wextra"]).arg(source).arg("-o").arg(&program);
        run(&mut compiler, "tests in C need a compiler `cc` for this machine")?;
        run(&mut Command::new(&program), "it was built just now")?;
    }
    Ok(())
}

/// All files that a module is compiled with, by their names below [`BUILD`], and which of them the compiler is given.
fn glue() -> Result<(Vec<(String, Vec<u8>)>, Vec<String>), Failure> {
    let mut generated = Files::default();
    let failed = |error| Failure::error(format!("the contract cannot be written as C: {error:#}"));
    let mut resolve = Resolve::default();
    let package = resolve.push_str("module.wit", CONTRACT);
    let world = package.and_then(|package| resolve.select_world(&[package], None));
    let write = |world| Opts::default().build().generate(&mut resolve, world, &mut generated);
    world.and_then(write).map_err(failed)?;
    let library = LIBRARY.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
    let generated = generated.iter().map(|(name, bytes)| (name.to_owned(), bytes.to_vec()));
    let files: Vec<_> = library.chain(generated).collect();
    let is_compiled = |name: &&String| name.ends_with(".c") || name.ends_with(".o");
    let compiled = files.iter().map(|(name, _)| name).filter(is_compiled).cloned().collect();
    Ok((files, compiled))
}

fn run(command: &mut Command, hint: &str) -> Result<(), Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Failure::error(format!("{program} failed; see above"))),
        Err(error) => Err(Failure::error(format!("cannot run {program}: {error}")).with_hint(hint)),
    }
}
