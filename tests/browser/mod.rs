//! Pages in headless Chromium, which `needs::chromium` finds.

use std::path::Path;
use std::process::Command;

/// The page as the browser sees it once its script has run, and what the browser logged.
pub struct Seen {
    pub page: String,
    pub log: String,
}

/// The page as a browser shows it, which makes no request.
pub fn open(chromium: &Path, page: &Path, arguments: &[&str]) -> Seen {
    let profile = tempfile::tempdir().unwrap();
    let net_log = profile.path().join("net.json");
    let output = Command::new(chromium)
        // Containers and root have no sandbox to give; the page is ours.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-component-update"])
        .args(["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"])
        .args(arguments)
        .args(["--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"])
        .arg(format!("--log-net-log={}", net_log.display()))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let net_log = std::fs::read_to_string(net_log).unwrap_or_default();
    assert!(!net_log.contains("hostile.invalid"), "the page makes no request");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let seen = Seen { page: text(output.stdout), log: String::from_utf8_lossy(&output.stderr).into_owned() };
    assert!(seen.page.contains("</html>"), "{}", seen.log);
    seen
}

/// A page with a script at its end, and the policy out of its way.
pub fn driven(html: &str, script: &str) -> String {
    let begin = html.find("script-src '").unwrap();
    let end = begin + html[begin..].find(';').unwrap();
    format!("{}script-src 'unsafe-inline'{}", &html[..begin], &html[end..]).replace("</body>", script)
}

/// What a script has left in the title.
pub fn title(seen: &Seen) -> &str {
    let page = &seen.page;
    &page[page.find("<title>").unwrap() + "<title>".len()..page.find("</title>").unwrap()]
}
