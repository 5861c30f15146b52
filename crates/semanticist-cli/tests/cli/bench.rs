//! `bench`: what it reports, not how fast anything is.

use super::Folder;

#[test]
fn a_job_reports_what_it_ran_and_how_long_it_took() {
    let folder = Folder::new();
    for (job, counted) in [("encode", true), ("decode", true), ("train", true), ("data", false)] {
        let report = folder.run(&format!("bench {job} --preset tiny --batch 2 --repeats 1 --json")).json();
        assert_eq!((&report["job"], &report["preset"]), (&job.into(), &"tiny".into()));
        assert_eq!((&report["batch"], &report["tokens"]), (&2.into(), &32.into()));
        let seconds = report["seconds"].as_f64().unwrap();
        assert!((report["seconds_per_image"].as_f64().unwrap() * 2.0 / seconds - 1.0).abs() < 1e-9);
        assert!(report["threads"].as_u64().unwrap() >= 1);
        assert!(report["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
        for figure in ["gflops", "peak_gflops"] {
            assert_eq!(report[figure].as_f64().is_some_and(|figure| figure > 0.0), counted, "{job} {figure}");
        }
        assert!(report.get("operators").is_none());
    }
    let report = folder.run("bench head --preset tiny --batch 2 --repeats 1 --json").json();
    assert_eq!((&report["batch"], &report["tokens"]), (&2.into(), &1.into()));
    assert!(report["gflops"].as_f64().unwrap() > 0.0);
    let report = folder.run("bench load --preset tiny --repeats 1 --json").json();
    assert!(report["seconds"].as_f64().unwrap() > 0.0 && report["seconds_per_image"].is_null());
    folder.run("bench load --preset tiny --repeats 1 --file random.safetensors").ok();
    let info = folder.run("models info random.safetensors --json").json();
    assert_eq!(report["model_bytes"], info["parameters"]["total"].as_u64().unwrap() * 4);
}

#[test]
fn given_images_are_measured_per_core_and_against_a_device() {
    let folder = Folder::new();
    folder.photos(&["photos/a.png", "photos/b.png"]);
    let run = "bench data photos --size 8 --batch 2 --repeats 1 --threads 1";
    let report = folder.run(&format!("{run} --eats 20 --json")).json();
    assert_eq!((&report["size"], &report["eaten_per_second"]), (&8.into(), &20.0.into()));
    let [all, core] =
        ["images_per_second", "images_per_core_second"].map(|name| report[name].as_f64().unwrap());
    assert!(all > 20.0 && core >= all / 2.0, "{all} {core}");
    assert!(report["data_wait"].as_f64().unwrap() < 0.5, "{report}");
    folder.fails("bench encode photos --preset tiny", 2, "only the job data reads images");
    folder.fails("bench data --size 8 --eats 0", 2, "not above 0");
}

#[test]
fn a_profile_names_the_operators_and_their_shares_make_up_the_whole() {
    let folder = Folder::new();
    let report =
        folder.run("bench encode --preset tiny --tokens 4 --batch 1 --repeats 2 --profile --json").json();
    assert_eq!(report["tokens"], 4);
    let operators = report["operators"].as_array().unwrap();
    let named: Vec<&str> = operators.iter().map(|share| share["operator"].as_str().unwrap()).collect();
    for operator in ["linear", "attention", "activation", "norm", "all else"] {
        assert!(named.contains(&operator), "{operator} is not in {named:?}");
    }
    // Three blocks of four linear layers and the patches; the projection has few rows.
    let linear = operators.iter().find(|share| share["operator"] == "linear").unwrap();
    assert_eq!(linear["calls"], 3 * 4 + 1);
    let text = folder.run("bench encode --preset tiny --batch 1 --repeats 1 --profile").ok().stdout;
    assert!(text.contains("GFLOP/s") && text.contains("attention"), "{text}");
}

#[test]
fn what_a_preset_cannot_do_is_said() {
    let folder = Folder::new();
    folder.fails("bench encode --preset tiny --tokens 33", 2, "the preset has 32");
    folder.fails("bench decode --preset tiny --tokens 4", 2, "this job computes all 32");
    folder.fails("bench encode --preset huge", 2, "huge");
    folder.fails(
        "bench encode --preset tiny --file x.safetensors",
        2,
        "only the job load reads a model file",
    );
    folder.fails("bench load --preset tiny --precision bfloat16", 2, "multiplies no matrices");
}
