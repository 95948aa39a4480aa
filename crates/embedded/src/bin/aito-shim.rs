//! The supervisor of local processes as a program of its own; `aito shim` is the same.

fn main() -> std::process::ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("shim") => aito_embedded::process::shim::main(),
        _ => {
            eprintln!("usage: aito-shim shim, with an order on standard input");
            std::process::ExitCode::from(2)
        }
    }
}
