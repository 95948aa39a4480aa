//! Tokens from outside: made with real keys, then forged, tampered with, outdated, addressed elsewhere.
//!
//! Invariants: keys are made for each test, except the RSA test key, which ring cannot make; time is given, never asked.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod accepted;
mod key_files;
mod refused;
mod support;
mod tampering;
