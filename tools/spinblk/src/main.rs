//! The `spinblk` program: everything is in the library beside it, where tests reach it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = spinblk_vduse::helper() {
        return code;
    }
    spinblk_cli::main(std::env::args_os())
}
