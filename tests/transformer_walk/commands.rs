//! Commands: in a block of `console`, a line that begins with `$` is run, and what follows is what it prints.

use std::path::Path;
use std::process::Command;

use super::{Checked, root};

/// `text` with everything printed as it is. All commands run one after the other in one folder, which holds `models`.
pub fn check(text: &str) -> Checked {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("models"), folder.path().join("models")).unwrap();
    let (mut faults, mut right, mut lines) = (Vec::new(), Vec::new(), text.lines().zip(1..).peekable());
    while let Some((line, _)) = lines.next() {
        right.push(line.to_owned());
        if line != "```console" {
            continue;
        }
        while let Some((mut command, number)) = lines.next_if(|(line, _)| line.starts_with("$ ")) {
            right.push(command.to_owned());
            let mut whole = command.trim_start_matches("$ ").to_owned();
            while command.ends_with('\\') {
                (command, _) = lines.next().unwrap();
                right.push(command.to_owned());
                whole.extend(["\n", command]);
            }
            let mut shown = Vec::new();
            while let Some((line, _)) = lines.next_if(|(line, _)| !line.starts_with("$ ") && *line != "```") {
                shown.push(line.to_owned());
            }
            match run(&whole, folder.path()) {
                Ok(printed) => {
                    if printed != shown {
                        let said = printed.join("\n");
                        faults.push(format!("{number}: `{whole}` prints\n{said}\nnot\n{}", shown.join("\n")));
                    }
                    right.extend(printed);
                }
                Err(fault) => {
                    faults.push(format!("{number}: `{whole}` failed: {fault}"));
                    right.extend(shown);
                }
            }
        }
    }
    Checked { text: right.join("\n") + "\n", faults }
}

/// What a command prints, line by line.
fn run(command: &str, folder: &Path) -> Result<Vec<String>, String> {
    let program = Path::new(env!("CARGO_BIN_EXE_emlab")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
        .env("PATH", path)
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}
