//! The built programs as users run them: real processes, real sockets, real files.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod dev;
mod readme;
mod run;
mod started;
