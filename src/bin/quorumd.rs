//! The daemon's program: everything is in `quorumd::daemon`.

fn main() {}
