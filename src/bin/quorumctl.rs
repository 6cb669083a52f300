//! The command line's program: everything is in `quorumd::cli`.

fn main() {}
