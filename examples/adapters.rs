//! Lists every adapter.
use wgpu_rope::GpuContext;
fn main() {
    for adapter in pollster::block_on(GpuContext::adapters()) {
        let i = adapter.get_info();
        println!("{} {:?} {:?} {} {}", i.name, i.backend, i.device_type, i.driver, i.driver_info);
        match pollster::block_on(GpuContext::from_adapter(&adapter)) {
            Ok(c) => { let t = std::time::Instant::now(); println!("  {:?} {:?}", c.self_test_blocking(), t.elapsed()) }
            Err(e) => println!("  {e}"),
        }
    }
}
