//! With the feature `lwip`: builds the C harness around Debian's liblwip and links both.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=lwip/harness.c");
    #[cfg(feature = "lwip")]
    {
        // Where Debian's liblwip-dev puts its headers.
        cc::Build::new()
            .file("lwip/harness.c")
            .include("/usr/include/lwip")
            .include("/usr/include/lwip/compat")
            .opt_level(2)
            .warnings(true)
            .compile("bywash_lwip_harness");
        println!("cargo::rustc-link-lib=dylib=lwip");
    }
}
