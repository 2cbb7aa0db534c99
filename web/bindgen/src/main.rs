//! `web-bindgen FILE.wasm FOLDER` writes into the folder what a browser loads: the module, and JavaScript that calls it.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(module), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("web-bindgen FILE.wasm FOLDER".into());
    };
    wasm_bindgen_cli_support::Bindgen::new()
        .input_path(module)
        .out_name("rope")
        .web(true)?
        .typescript(false)
        // The page says which file it is; bundlers, which would have to guess, are not served.
        .omit_default_module_path(true)
        // Names of functions are half a module, and of no use without its source.
        .remove_name_section(true)
        .remove_producers_section(true)
        .generate(folder)?;
    Ok(())
}
