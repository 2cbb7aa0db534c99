//! How far cos and sin are from the truth at growing positions: this crate's table, and the usual f32 angle with the driver's
//! own sin and cos, both made on the GPU.
//!
//! `cargo run --release --example accuracy [FILE.svg]` prints a table and, with a file, draws it.
#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

#[path = "../benches/measure/mod.rs"]
mod measure;

use std::error::Error;

use plotters::prelude::*;
use wgpu_rope::{Frequencies, GpuContext, RopeConfig};

use measure::{Errors, POSITIONS};

fn main() -> Result<(), Box<dyn Error>> {
    let context = GpuContext::new_blocking()?;
    let config = RopeConfig::new(128);
    let frequencies = Frequencies::new(&config)?;
    let rows = POSITIONS
        .iter()
        .map(|&position| pollster::block_on(measure::errors(&context, &frequencies, position)))
        .collect::<Result<Vec<_>, _>>()?;

    println!(
        "Largest error of cos and sin, theta 10,000, head_dim 128, on {} ({})\n",
        context.info().name,
        context.info().backend
    );
    println!("| positions up to | this crate | f32 angle, driver's sin and cos |");
    println!("|---:|---:|---:|");
    for row in &rows {
        println!(
            "| {} | {:.1e} | {:.1e} |",
            row.position, row.exact, row.float
        );
    }
    if let Some(file) = std::env::args().nth(1) {
        draw(&file, &rows, &context.info().name)?;
        println!("\ndrawn to {file}");
    }
    Ok(())
}

fn draw(file: &str, rows: &[Errors], adapter: &str) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::new(file, (820, 460)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "Largest error of cos and sin (theta 10,000, head_dim 128)",
            ("sans-serif", 20),
        )
        .margin(16)
        .x_label_area_size(46)
        .y_label_area_size(72)
        .build_cartesian_2d(
            (4096.0..16_777_216.0_f64).log_scale(),
            (1e-8..2.0_f64).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("position")
        .y_desc("largest absolute error")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0e}"))
        .light_line_style(WHITE)
        .draw()?;
    let series = [
        (
            format!("f32 angle, the driver's sin and cos ({adapter})"),
            RED,
            true,
        ),
        (
            "this crate, the same on every adapter".to_owned(),
            BLUE,
            false,
        ),
    ];
    for (label, colour, float) in series {
        let points: Vec<_> = rows
            .iter()
            .map(|row| {
                (
                    f64::from(row.position),
                    if float { row.float } else { row.exact },
                )
            })
            .collect();
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
        chart.draw_series(
            points
                .into_iter()
                .map(|point| Circle::new(point, 4, colour.filled())),
        )?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}
