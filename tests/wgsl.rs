//! The shaders as text: they parse, validate with baseline capabilities.
#[test]
fn valid() {
    for (name, text) in [("table", wgpu_rope::TABLE_WGSL), ("rotate", wgpu_rope::ROTATE_WGSL)] {
        let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text)).unwrap();
        let mut v = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::empty());
        if let Err(e) = v.validate(&module) { panic!("{name}: {}", e.emit_to_string(text)); }
    }
}
