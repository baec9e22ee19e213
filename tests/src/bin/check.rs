//! `make check` and, with `--fast`, `make check-fast`: see [`devbroker_tests::check`].

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use devbroker_tests::check;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let jobs = words
        .iter()
        .skip_while(|word| *word != "--jobs")
        .nth(1)
        .and_then(|number| number.parse().ok());
    match check::run(
        words.iter().any(|word| word == "--fast"),
        jobs.unwrap_or(2),
        &mut io::stdout(),
    ) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nowhere else to say it.
            writeln!(io::stderr(), "check: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}
