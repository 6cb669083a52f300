//! The command line's program: everything is in `quorumd::cli`.

use std::process::ExitCode;

use quorumd::cli::{OwnProgram, run};

fn main() -> ExitCode {
    ExitCode::from(run(OwnProgram::current(), std::env::args_os()))
}
