//! The scanner sees what it must see: each rule stands on it.

use super::scan::{Kind, Source, scan, unsafe_lines};
use super::tree::{Tree, circles};

/// The paths of a text, `a::b::c`, in order.
fn paths(text: &str) -> Vec<String> {
    scan(text).mentions.iter().map(|mention| mention.path.join("::")).collect()
}

fn tree(files: &[(&str, &str)]) -> Tree {
    let files: Vec<(String, String)> =
        files.iter().map(|(f, t)| ((*f).to_owned(), (*t).to_owned())).collect();
    Tree::new(&move |wanted| files.iter().find(|(file, _)| file == wanted).map(|(_, text)| text.clone()))
}

/// The files that a file needs.
fn needs(tree: &Tree, file: &str) -> Vec<String> {
    tree.needs()[file].keys().cloned().collect()
}

#[test]
fn imports_are_seen_alone_in_groups_and_over_lines() {
    assert_eq!(paths("use crate::train;"), ["crate::train"]);
    assert_eq!(
        paths("pub(crate) use crate::{train, ops::{self, norm::Norm}};"),
        ["crate::train", "crate::ops", "crate::ops::norm::Norm"]
    );
    assert_eq!(
        paths("use crate::{\n    // why\n    train, // more\n    study,\n};\nuse super::x;"),
        ["crate::train", "crate::study", "super::x"]
    );
    let globs = scan("fn f() { use super::super::a::*; }");
    assert_eq!(globs.mentions[0].path, ["super", "super", "a"]);
    assert_eq!(globs.mentions[0].kind, Kind::Glob);
    let named = scan("use a::b as c;\nuse d::{self as e};");
    let kinds: Vec<_> = named.mentions.iter().map(|mention| (mention.line, mention.kind.clone())).collect();
    assert_eq!(kinds, [(1, Kind::Import("c".into())), (2, Kind::Import("e".into()))]);
}

#[test]
fn paths_in_code_are_seen_in_macros_and_attributes_too() {
    let text = "#[arg(parse = crate::a::parse)]\nfn f(x: &crate::b::T<crate::c::U>) { g!(\"{}\", super::d::e::<u8>(x)) }";
    assert_eq!(paths(text), ["crate::a::parse", "crate::b::T", "crate::c::U", "super::d::e"]);
    assert_eq!(paths("fn f() -> impl Fn() + use<'_> { <T as crate::a::B>::c() }"), ["crate::a::B"]);
}

#[test]
fn comments_strings_and_tests_are_no_imports() {
    assert!(paths("// use crate::a;\n/* use crate::b; /* */ crate::c::d */ //! [`crate::e::f`]").is_empty());
    assert!(
        paths(r##"const A: &str = "use crate::a;\" crate::b::c"; const B: &str = r#"crate::d::e"#;"##)
            .is_empty()
    );
    assert!(
        paths("#[cfg(test)]\nmod tests {\n    use super::*;\n    fn f() { crate::a::b(); }\n}").is_empty()
    );
    assert!(paths("#[cfg(test)]\n#[allow(x)]\nuse crate::a::b;\n#[cfg(all(test, unix))]\nmod c;").is_empty());
    assert_eq!(paths("fn f<'a>(c: &'a char) { g('\"', '\\'', b'\"') }\nuse crate::seen;"), ["crate::seen"]);
    assert_eq!(paths("#[cfg(test)]\nfn f() {}\nuse crate::seen;"), ["crate::seen"]);
    assert_eq!(paths("pub(in crate::study) use crate::seen;"), ["crate::seen"]);
}

#[test]
fn a_grouped_import_is_an_edge() {
    let tree = tree(&[
        ("lib.rs", "pub mod train; pub mod model;"),
        ("train.rs", "pub struct Settings;"),
        ("model.rs", "use crate::{\n    train::{self, Settings},\n};"),
    ]);
    assert_eq!(needs(&tree, "model.rs"), ["train.rs"]);
}

#[test]
fn super_and_self_lead_to_the_file_they_mean() {
    let tree = tree(&[
        ("lib.rs", "pub mod a; mod other;"),
        ("other.rs", "pub fn f() {}"),
        ("a/mod.rs", "pub mod b; mod c;"),
        ("a/b.rs", "mod d;\nuse self::d::D;\nmod inner { use super::d::D; use super::super::c::C; }"),
        ("a/b/d.rs", "pub struct D; fn f() { super::super::super::other::f() }"),
        ("a/c.rs", "pub struct C;"),
    ]);
    assert_eq!(needs(&tree, "a/b.rs"), ["a/b/d.rs", "a/c.rs"]);
    assert_eq!(needs(&tree, "a/b/d.rs"), ["other.rs"]);
    assert_eq!(tree.unknown(), Vec::<String>::new());
}

#[test]
fn a_circle_of_three_is_found_whichever_way_it_is_imported() {
    let tree = tree(&[
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a.rs", "use crate::b::B; pub struct A;"),
        ("b.rs", "pub struct B; fn f() { crate::c::f(); }"),
        ("c.rs", "use super::{a::A, d::D}; pub fn f() {}"),
        ("d.rs", "pub struct D;"),
    ]);
    assert_eq!(circles(&tree.needs()), [["a.rs", "b.rs", "c.rs"]]);
}

#[test]
fn a_map_makes_no_circle_and_hides_none() {
    let map = "pub mod a; pub mod b; pub use self::a::A; pub use b::{B, f as g};";
    let honest = tree(&[
        ("lib.rs", "pub mod m;"),
        ("m/mod.rs", map),
        ("m/a.rs", "pub struct A;"),
        ("m/b.rs", "use super::A; pub struct B; pub fn f() {}"),
    ]);
    assert_eq!(needs(&honest, "m/b.rs"), ["m/a.rs"]);
    assert!(circles(&honest.needs()).is_empty());
    let hidden = tree(&[
        ("lib.rs", "pub mod m;"),
        ("m/mod.rs", map),
        ("m/a.rs", "pub struct A; fn h() { super::g() }"),
        ("m/b.rs", "use super::A; pub struct B; pub fn f() {}"),
    ]);
    assert_eq!(circles(&hidden.needs()), [["m/a.rs", "m/b.rs"]]);
    let logic = tree(&[
        ("lib.rs", "pub mod m;"),
        ("m/mod.rs", "mod a; pub fn f() { a::g() }"),
        ("m/a.rs", "pub fn g() { super::f() }"),
    ]);
    assert_eq!(circles(&logic.needs()), [["m/a.rs", "m/mod.rs"]]);
}

#[test]
fn re_exports_are_followed_through_globs_and_over_several_maps() {
    let tree = tree(&[
        ("lib.rs", "mod a; mod user; pub use a::A;"),
        ("a/mod.rs", "mod b; pub use b::*;"),
        ("a/b/mod.rs", "mod c; pub use c::A; pub use half::bf16;"),
        ("a/b/c.rs", "pub struct A;"),
        ("user.rs", "use crate::{A, a::bf16}; fn f() { A::new() }"),
    ]);
    let needed = needs(&tree, "user.rs");
    assert_eq!(needed, ["a/b/c.rs", "a/mod.rs"]);
}

#[test]
fn a_name_that_nobody_defines_is_told() {
    let tree = tree(&[
        ("lib.rs", "mod a; mod b; mod gone;"),
        ("a.rs", ""),
        ("b.rs", "use crate::a::Missing; use crate::Lost;"),
    ]);
    assert_eq!(tree.unknown().len(), 3, "{:?}", tree.unknown());
}

#[test]
fn a_map_holds_modules_and_imports_alone() {
    let lines = |text: &str| -> Vec<usize> {
        let Source { more_than_a_map, .. } = scan(text);
        more_than_a_map
    };
    let map = "//! Docs.\n#![allow(x)]\n#[path = \"x\"]\npub mod a;\nmod b;\npub(in crate::c) use self::a::{A, B};\nuse d::E;";
    assert_eq!(lines(map), [0; 0]);
    assert_eq!(lines("#[cfg(test)]\nmod tests { fn f() {} }\n#[cfg(test)]\nfn f() {}"), [0; 0]);
    assert_eq!(
        lines("mod a;\npub const N: usize = 1;\nimpl A { fn f() {} }\npub fn f() {}\nmod b { }"),
        [2, 3, 4, 5]
    );
}

#[test]
fn unsafe_is_seen_in_code_alone() {
    let text = "// unsafe\nconst A: &str = \"unsafe\";\nmod cuda {\n    fn f() { unsafe { g() } }\n}\nunsafe fn h() {}";
    assert_eq!(unsafe_lines(text), [(4, true), (6, false)]);
    assert!(unsafe_lines("#![deny(unsafe_op_in_unsafe_fn)]").is_empty());
}
