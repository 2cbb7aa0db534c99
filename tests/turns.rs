//! cos and sin of the CPU twin against independent truth: vectors computed elsewhere with 400-bit arithmetic, and an
//! arbitrary-precision library here.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

#[path = "common/exact.rs"]
mod exact;

use astro_float::Consts;
use wgpu_rope::turns::{TableFactor, TurnRate, cos_sin};

fn hex(text: &str) -> u32 {
    u32::from_str_radix(text, 16).unwrap()
}

#[test]
fn all_golden_points_are_equal() {
    let mut points = 0;
    for line in include_str!("golden/turns.csv").lines().skip(1) {
        let fields: Vec<_> = line.split(',').collect();
        let inv_freq = f64::from_bits(u64::from_str_radix(fields[1], 16).unwrap());
        let factor = TableFactor::new(f32::from_bits(hex(fields[2]))).unwrap();
        let made = cos_sin(
            fields[0].parse().unwrap(),
            TurnRate::new(inv_freq).unwrap(),
            factor,
        );
        assert_eq!(made, [hex(fields[3]), hex(fields[4])], "{line}");
        points += 1;
    }
    assert_eq!(points, 4017);
}

fn truth(position: i32, inv_freq: f64, factor: f32, constants: &mut Consts) -> [u32; 2] {
    let angle = exact::product(position.into(), inv_freq);
    exact::cos_sin(&angle, factor, constants)
}

/// Positions up to 2^31 where the angle comes closest to a multiple of a quarter turn: the denominators of the convergents
/// of 4 `inv_freq` / 2 pi, from the continued fraction of its 128-bit fraction.
fn near_quarter_turns(inv_freq: f64) -> Vec<i32> {
    let rate = TurnRate::new(inv_freq).unwrap().magnitude << 2;
    let (mut a, mut b) = (u128::MAX, rate);
    let (mut before, mut now) = (0_u128, 1_u128);
    let mut positions = Vec::new();
    while b != 0 {
        let quotient = a / b;
        (a, b) = (b, a % b);
        let Some(next) = quotient
            .checked_mul(now)
            .and_then(|n| n.checked_add(before))
        else {
            break;
        };
        (before, now) = (now, next);
        match i32::try_from(now) {
            Ok(position) => positions.push(position),
            Err(_) => break,
        }
    }
    positions
}

#[test]
fn random_and_hard_points_are_correctly_rounded() {
    let mut random = fastrand::Rng::with_seed(20_261);
    let mut points = Vec::new();
    // Frequencies of models, of both signs, and of the whole range.
    let models = [1e4, 1e5, 5e5, 1e6, 1e7]
        .into_iter()
        .flat_map(|theta: f64| (0..64).map(move |k| libm::pow(theta, -f64::from(k) / 64.0)));
    let mut frequencies: Vec<f64> = models.collect();
    frequencies.extend((0..320).map(|_| libm::exp2(random.f64() * 80.0 - 64.0)));
    frequencies.extend([
        65_536.0,
        65_535.9,
        1.0,
        3.0,
        std::f64::consts::TAU,
        std::f64::consts::FRAC_PI_2,
    ]);
    for frequency in frequencies {
        let frequency = if random.bool() { frequency } else { -frequency };
        let factor = if random.u8(..4) == 0 {
            let magnitude = random.f32() * 3.0 + 0.25;
            if random.bool() { magnitude } else { -magnitude }
        } else {
            1.0
        };
        let hard = near_quarter_turns(frequency);
        let hard = hard
            .iter()
            .flat_map(|&p| [p, -p, p.saturating_add(1), p - 1, p.saturating_mul(2)]);
        points.extend(hard.map(|p| (p, frequency, factor)));
        for _ in 0..90 {
            points.push((random.i32(..), frequency, factor));
            let bits = random.u8(1..31);
            points.push((random.i32(0..1 << bits), frequency, factor));
        }
        for edge in [
            i32::MIN,
            i32::MIN + 1,
            i32::MAX,
            (1 << 24) + 1,
            131_071,
            4095,
        ] {
            points.push((edge, frequency, factor));
        }
    }
    assert!(points.len() >= 100_000, "{}", points.len());

    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let wrong: usize = std::thread::scope(|scope| {
        let handles: Vec<_> = points
            .chunks(points.len().div_ceil(threads))
            .map(|points| {
                scope.spawn(move || {
                    let mut constants = Consts::new().unwrap();
                    let differs = |&&(position, inv_freq, factor): &&(i32, f64, f32)| {
                        let made = cos_sin(
                            position,
                            TurnRate::new(inv_freq).unwrap(),
                            TableFactor::new(factor).unwrap(),
                        );
                        let mut expected = truth(position, inv_freq, factor, &mut constants);
                        if position == 0 {
                            // The table packs a sine of exactly 0 without a sign.
                            expected[1] = 0;
                        }
                        if made != expected {
                            eprintln!("{position} * {inv_freq:e} * {factor}: {made:08x?}, truth {expected:08x?}");
                        }
                        made != expected
                    };
                    points.iter().filter(differs).count()
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap())
            .sum()
    });
    eprintln!("{wrong} of {} values misrounded", 2 * points.len());
    assert_eq!(wrong, 0);
}

/// Frequencies made so that a position hits a multiple of pi as nearly as f64 can. The angle is off by less than 2^-95 rad whatever it is, which
/// sines below 2^-34 show: they are within that and a unit of the last place, and all else is correctly rounded.
#[test]
fn frequencies_made_to_hit_multiples_of_pi_are_off_by_2_to_the_minus_95() {
    let mut random = fastrand::Rng::with_seed(31);
    let mut constants = Consts::new().unwrap();
    let near = |position: i32, multiple: i32| {
        f64::from(multiple) * std::f64::consts::PI / f64::from(position)
    };
    // The sine of the first is 2^-71.5, and the table has the second nearest f32.
    let known = [2_147_266_387, 2_147_108_464, 2_147_279_481].map(|position| (position, 1));
    let made_up = (0..20_000).map(|_| (random.i32(1 << 20..), random.i32(1..1 << 20)));
    let (mut small, mut wrong) = (0, 0);
    for (position, multiple) in known.into_iter().chain(made_up) {
        let inv_freq = near(position, multiple);
        let rate = TurnRate::new(inv_freq).unwrap();
        let made = cos_sin(position, rate, TableFactor::new(1.0).unwrap());
        let expected = truth(position, inv_freq, 1.0, &mut constants);
        assert_eq!(made[0], expected[0], "{position} {inv_freq:e}");
        let [sin, exact] = [made[1], expected[1]].map(|bits| f64::from(f32::from_bits(bits)));
        if exact.abs() >= 2_f64.powi(-34) {
            assert_eq!(made[1], expected[1], "{position} {inv_freq:e}");
            continue;
        }
        // Both are rounded, each by half a unit.
        let unit = exact.abs() * 2_f64.powi(-23);
        let apart = (sin - exact).abs();
        assert!(apart <= unit + 2_f64.powi(-95), "{position} {inv_freq:e}");
        small += 1;
        wrong += u32::from(made[1] != expected[1]);
    }
    eprintln!("{wrong} of {small} sines below 2^-34 are not the nearest f32");
    assert!(small >= 5_000 && wrong >= 1, "{small} {wrong}");
}

/// The least distance of an angle from a multiple of a quarter turn is at a convergent's position, so these are all.
#[test]
fn angles_of_models_stay_off_quarter_turns() {
    let mut least = f32::INFINITY;
    let mut count = 0;
    for theta in [1e4, 1e5, 1.6e5, 5e5, 1e6, 8e6, 1e7] {
        for dim in [32, 64, 80, 96, 128, 192, 256] {
            for k in 0..dim / 2 {
                let inv_freq = libm::pow(theta, -f64::from(2 * k) / f64::from(dim));
                count += 1;
                for position in near_quarter_turns(inv_freq) {
                    let rate = TurnRate::new(inv_freq).unwrap();
                    let entry = cos_sin(position, rate, TableFactor::new(1.0).unwrap());
                    for bits in entry {
                        least = least.min(f32::from_bits(bits).abs());
                    }
                }
            }
        }
    }
    assert_eq!(count, 2968);
    let exponent = least.log2();
    eprintln!("the nearest of {count} frequencies is 2^{exponent:.1} rad off");
    assert!((-41.0..-40.0).contains(&exponent), "{exponent}");
}
