//! Any text is a configuration or an error that says where.

#![no_main]

use imapool::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Config::parse(text, "fuzz.toml") {
        Ok(config) => {
            assert!(!config.listeners.is_empty() && !config.backends.is_empty());
            for warning in config.warnings() {
                assert!(!warning.to_string().is_empty());
            }
        }
        Err(error) => assert!(error.to_string().starts_with("fuzz.toml"), "{error}"),
    }
});
