//! cos and sin on the CPU against independent truth.
use wgpu_rope::turns::*;
#[test]
fn golden() {
    let text = include_str!("golden/turns.csv");
    let mut n = 0;
    for line in text.lines().skip(1) {
        let f: Vec<&str> = line.split(',').collect();
        let p: i32 = f[0].parse().unwrap();
        let w = f64::from_bits(u64::from_str_radix(f[1], 16).unwrap());
        let h = |s: &str| u32::from_str_radix(s, 16).unwrap();
        let a = f32::from_bits(h(f[2]));
        let got = cos_sin(p, TurnRate::new(w).unwrap(), TableFactor::new(a).unwrap());
        assert_eq!(got, [h(f[3]), h(f[4])], "{line}");
        n += 1;
    }
    assert_eq!(n, 4017);
}
