//! Bars by adapter against the floor.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::report::{Row, pairing_name, type_name};

/// Height of a bar with its label.
const STEP: u32 = 26;

pub(crate) fn draw(file: &Path, rows: &[Row]) -> Result<(), Box<dyn Error>> {
    let count = u32::try_from(rows.len())?;
    let whole = SVGBackend::new(file, (1100, 110 + STEP * count.max(1))).into_drawing_area();
    whole.fill(&WHITE)?;
    let area = whole.titled(
        "Time of the rotation to that of the best in-place pass over the same bytes",
        ("sans-serif", 18),
    )?;
    let most = rows
        .iter()
        .fold(1.5, |most: f64, row| most.max(row.floor_ratio * 1.15));
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .x_label_area_size(36)
        .y_label_area_size(0)
        .margin_left(520)
        .build_cartesian_2d(0.0..most, 0.0..f64::from(count.max(1)))?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(WHITE)
        .x_label_formatter(&|x| format!("{x:.1}"))
        .draw()?;
    let mut adapters: Vec<_> = rows
        .iter()
        .map(|row| (&row.adapter, &row.backend))
        .collect();
    adapters.dedup();
    for (n, row) in rows.iter().enumerate() {
        let top = f64::from(count) - n as f64;
        let adapter = adapters
            .iter()
            .position(|adapter| *adapter == (&row.adapter, &row.backend));
        let colour = Palette99::pick(adapter.unwrap_or(0)).filled();
        let bar = [(0.0, top - 0.85), (row.floor_ratio, top - 0.15)];
        chart.draw_series([Rectangle::new(bar, colour)])?;
        let (x, y) = chart.backend_coord(&(row.floor_ratio, top - 0.5));
        whole.draw(&Text::new(
            format!("{:.2}", row.floor_ratio),
            (x + 5, y - 6),
            ("sans-serif", 13),
        ))?;
        let workload = &row.workload;
        let label = format!(
            "{}, {}: {}, {}, {}",
            row.adapter,
            row.backend,
            workload.name,
            type_name(workload.element),
            pairing_name(workload.pairing)
        );
        whole.draw(&Text::new(label, (14, y - 6), ("sans-serif", 13)))?;
    }
    // The floor.
    chart.draw_series([PathElement::new(
        [(1.0, 0.0), (1.0, f64::from(count.max(1)))],
        BLACK.stroke_width(2),
    )])?;
    whole.present()?;
    Ok(())
}
