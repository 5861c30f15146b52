//! The command line of Semanticist.

mod command {
    pub mod train;
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let resume = args.iter().any(|a| a == "--resume");
    let settings = args.iter().skip_while(|a| *a != "--set").skip(1).cloned().collect();
    let request = command::train::TrainTokenizer {
        config: args[1].clone().into(),
        data: vec![args[2].clone().into()],
        out: args[3].clone().into(),
        settings,
        resume,
    };
    if let Err(error) = command::train::train_tokenizer(&request, &burn::tensor::Device::flex()) {
        eprintln!("error: {error:#}");
        std::process::exit(1);
    }
}
