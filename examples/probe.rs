use wgpu_rope::*;
use std::time::Instant;
fn time(c: &GpuContext, n: usize, f: &dyn Fn(&mut wgpu::ComputePass<'_>)) -> f64 {
    let t = Instant::now();
    c.run(|p| { for _ in 0..n { f(p) } Ok(()) }).unwrap();
    c.wait().unwrap();
    t.elapsed().as_secs_f64() / n as f64 * 1e3
}
fn med(v: &mut Vec<f64>) -> f64 { v.sort_by(f64::total_cmp); v[v.len()/2] }
fn main() {
    let c = GpuContext::new_blocking().unwrap();
    println!("{} {:?}", c.info().name, c.info().backend);
    let tokens = 4096u32;
    let q: Vec<f32> = (0..tokens as usize*32*128).map(|i| (i % 1000) as f32 * 0.001 + 0.5).collect();
    let k: Vec<f32> = q[..tokens as usize*8*128].to_vec();
    let none = wgpu::BufferUsages::empty();
    let (qb, kb) = (c.upload(&q, none).unwrap(), c.upload(&k, none).unwrap());
    let d = c.device();
    let module = d.create_shader_module(wgpu::ShaderModuleDescriptor{label:None, source: wgpu::ShaderSource::Wgsl(include_str!("../benches/floor/floor.wgsl").into())});
    let mut names: Vec<String> = vec![]; let mut fs: Vec<Box<dyn Fn(&mut wgpu::ComputePass<'_>)>> = vec![];
    for (wg, per) in [(64u32,1u32),(64,2),(64,4),(64,8),(256,1),(256,4),(256,8),(16,8)] {
        let p = d.create_compute_pipeline(&wgpu::ComputePipelineDescriptor{label:None,layout:None,module:&module,entry_point:None,compilation_options:wgpu::PipelineCompilationOptions{constants:&[("WORKGROUP",wg.into()),("PER",per.into())],zero_initialize_workgroup_memory:false},cache:None});
        let g = d.create_bind_group(&wgpu::BindGroupDescriptor{label:None,layout:&p.get_bind_group_layout(0),entries:&[wgpu::BindGroupEntry{binding:0,resource:qb.as_entire_binding()},wgpu::BindGroupEntry{binding:1,resource:kb.as_entire_binding()}]});
        let total = (tokens*40*128/4)/(wg*per); let gx = total.min(32768); let gy = total.div_ceil(gx);
        names.push(format!("floor wg{wg} per{per}"));
        fs.push(Box::new(move |pass| { pass.set_pipeline(&p); pass.set_bind_group(0,&g,&[]); pass.dispatch_workgroups(gx,gy,1); }));
    }
    let kernel = c.kernel();
    let mut refs = vec![];
    for (pairing, pn) in [(Pairing::HalfSplit,"half"),(Pairing::Interleaved,"inter")] {
        let cfg = RopeConfig::new(128).with_theta(5e5).with_pairing(pairing);
        let table = kernel.table(&Frequencies::new(&cfg).unwrap(), tokens, Angles::Exact, Direction::Forward).unwrap();
        let fill = table.bind_positions(Positions::From(0)).unwrap();
        c.run(|p| fill.record(p, tokens)).unwrap();
        for (el, en) in [(ElementType::F32,"f32"),(ElementType::Bf16,"bf16"),(ElementType::F16,"f16")] {
            for (h, wg) in [(8u32,None),(4,None),(2,None),(1,None),(8,Some(16u32)),(8,Some(64)),(8,Some(40)),(4,Some(64)),(1,Some(64))] {
                if el != ElementType::F32 && (wg.is_some() || h < 4) { continue }
                let mut spec = RotateSpec::new(&cfg,1,tokens,HeadLayout::bshd(tokens,32,128),el).with_key(HeadLayout::bshd(tokens,8,128),el).with_heads_per_invocation(h);
                if let Some(w) = wg { spec = spec.with_workgroup(w); }
                let plan = RopePlan::new(&spec, kernel.limits()).unwrap();
                let disp = kernel.prepare(&plan).unwrap().bind(&Operands::new(qb.slice(..)).with_key(kb.slice(..)), &table).unwrap();
                refs.push(disp.clone());
                names.push(format!("{pn} {en} h{h} wg{wg:?}"));
                fs.push(Box::new(move |pass| disp.record(pass, tokens).unwrap()));
            }
        }
    }
    let mut t: Vec<Vec<f64>> = vec![vec![]; fs.len()];
    for r in 0..9 { for (i,f) in fs.iter().enumerate() { let x = time(&c, 2, &**f); if r > 0 { t[i].push(x) } } }
    let m: Vec<f64> = t.iter_mut().map(med).collect();
    let floor = m[..8].iter().cloned().fold(f64::MAX, f64::min);
    for (n, v) in names.iter().zip(&m) { println!("{n:28} {v:8.2} ms {:.2}", v/floor); }
}
