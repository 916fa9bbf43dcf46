//! The page's own files, which are part of this program: no name of the cluster's is in them, so anybody may have them.

use axum::{
    http::{HeaderValue, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};

/// One of the files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File {
    pub(crate) path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! file {
    ($name:literal, $content_type:expr) => {
        File {
            path: concat!("/", $name),
            content_type: $content_type,
            text: include_str!(concat!("../page/", $name)),
        }
    };
}

/// What a browser loads first.
pub(crate) const INDEX: File = file!("index.html", "text/html; charset=utf-8");

/// What that asks for.
pub(crate) const FILES: &[File] = &[
    file!("style.css", "text/css; charset=utf-8"),
    file!("icon.svg", "image/svg+xml"),
    file!("app.js", SCRIPT),
    file!("api.js", SCRIPT),
    file!("browser.js", SCRIPT),
    file!("charts.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("format.js", SCRIPT),
    file!("summary.js", SCRIPT),
    file!("topology.js", SCRIPT),
    file!("xdp.js", SCRIPT),
];

impl File {
    pub(crate) fn response(self) -> Response {
        ([(CONTENT_TYPE, HeaderValue::from_static(self.content_type))], self.text).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_needs_nothing_from_elsewhere_and_writes_no_markup_from_text() {
        for file in FILES.iter().chain([&INDEX]) {
            for (number, line) in file.text.lines().enumerate() {
                // The names of SVG and of its kind are no addresses.
                let line = line.replace("http://www.w3.org/", "");
                for bad in
                    ["http://", "https://", "innerHTML", "outerHTML", "insertAdjacent", "eval(", "style=\""]
                {
                    assert!(!line.contains(bad), "{}:{}: {bad}", file.path, number + 1);
                }
            }
        }
    }

    #[test]
    fn what_the_files_ask_for_is_there() {
        let is_there = |path: &str| FILES.iter().any(|file| file.path == path);
        let mut asked = 0;
        for file in FILES.iter().chain([&INDEX]) {
            let (before, after): (&[&str], char) = if file.path.ends_with(".js") {
                (&["from \"./"], '"')
            } else {
                (&["src=\"/", "href=\"/"], '"')
            };
            for part in before.iter().flat_map(|before| file.text.split(before).skip(1)) {
                let name = part.split(after).next().unwrap_or_default();
                assert!(is_there(&format!("/{name}")), "{} asks for {name}", file.path);
                asked += 1;
            }
        }
        assert!(asked >= FILES.len(), "every file is asked for by another");
    }
}
