//! Links between pages: each leads to a file that is there, and to a heading in it.

use std::path::Path;

use super::{File, Repository, normalize};
use crate::sh;

pub(super) fn broken(repository: &Repository) -> Vec<String> {
    let mut complaints = Vec::new();
    for page in repository.with_extension("md") {
        for (number, target) in links(page) {
            if let Some(why) = why_broken(repository, page, &target) {
                complaints.push(format!("{}:{number}: {target}: {why}", page.path));
            }
        }
    }
    complaints
}

fn why_broken(repository: &Repository, page: &File, target: &str) -> Option<&'static str> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let directory = Path::new(&page.path).parent().unwrap_or(Path::new(""));
    let there = match path {
        "" => page.path.clone(),
        path => {
            let Some(there) = normalize(&directory.join(path)) else {
                return Some("leads out of the repository");
            };
            there.to_string_lossy().into_owned()
        }
    };
    let Some(file) = repository.file(&there) else {
        // Folders and pictures are good targets too, but have no headings.
        let exists = sh::root().join(&there).exists();
        return (!exists || anchor.is_some()).then_some("is not there");
    };
    let anchor = anchor?;
    (!anchors(file).iter().any(|other| other == anchor)).then_some("has no such heading")
}

/// The targets of inline links and of link definitions, outside code.
fn links(page: &File) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(page) {
        let line = without_code(line);
        let mut rest = line.as_str();
        while let Some((_, behind)) = rest.split_once("](") {
            let target = behind.split([')', ' ']).next().unwrap_or(behind);
            found.push((number, target.trim_matches(['<', '>']).to_owned()));
            rest = behind;
        }
        let definition = line.strip_prefix('[').and_then(|line| line.split_once("]: "));
        if let Some((_, target)) = definition {
            found.push((number, target.split(' ').next().unwrap_or(target).to_owned()));
        }
    }
    found
}

/// The anchors that GitHub makes from headings.
fn anchors(page: &File) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for (_, line) in prose(page) {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let slug: String = heading
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let is_again = |other: &&String| {
            **other == slug || other.strip_prefix(&format!("{slug}-")).is_some_and(is_number)
        };
        let earlier = anchors.iter().filter(is_again).count();
        anchors.push(if earlier == 0 { slug } else { format!("{slug}-{earlier}") });
    }
    anchors
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The lines outside fenced code.
fn prose(page: &File) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    page.lines().filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn anchors_are_what_github_makes_of_headings() {
        let text = "# The `wire` crate, v1\n```sh\n# no heading\n```\n## Again\n## Again\n#no\n### §3 Places & sizes\n";
        assert_eq!(
            anchors(&page("a.md", text)),
            ["the-wire-crate-v1", "again", "again-1", "3-places--sizes"]
        );
    }

    #[test]
    fn each_link_leads_to_a_file_and_a_heading() {
        let check = |target: &str, expect: Option<&str>| {
            let from = page("docs/design/a.md", &format!("See [it]({target}).\n## Here\n"));
            let repository = Repository { files: vec![from, page("docs/b.md", "# There\n")] };
            let found = broken(&repository);
            match expect {
                None => assert!(found.is_empty(), "{found:?}"),
                Some(why) => assert!(found.len() == 1 && found[0].ends_with(why), "{found:?}"),
            }
        };
        check("../b.md", None);
        check("../b.md#there", None);
        check("#here", None);
        check("https://example.org/#x", None);
        check("../b.md#nowhere", Some("has no such heading"));
        check("#nowhere", Some("has no such heading"));
        check("../c.md", Some("is not there"));
        check("../../../c.md", Some("leads out of the repository"));
    }

    #[test]
    fn code_holds_no_links() {
        let text = "`[a](b)` and\n```\n[c](d)\n```\n[e](f) [g](h \"title\")\n[i]: j\n";
        let found: Vec<String> = links(&page("a.md", text)).into_iter().map(|(_, target)| target).collect();
        assert_eq!(found, ["f", "h", "j"]);
    }
}
