use burn::tensor::TensorData;

use super::*;

/// Recorded by `scripts/record_titok.py` and `scripts/record_vq.py`: narrow, with random weights.
fn recording(kind: QuantisedKind) -> Weights {
    let file = format!("../semanticist-verify/tests/data/reference/{kind}.safetensors");
    weights::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap().0
}

fn tensor<const D: usize>(weights: &Weights, name: &str) -> Tensor<D> {
    let found = weights.get(name).unwrap_or_else(|| panic!("{name} in the recording"));
    Tensor::from_data(TensorData::new(found.to_f32().unwrap(), found.shape().to_vec()), &Device::flex())
}

fn load(kind: QuantisedKind, weights: &Weights) -> Result<QuantisedTokenizer> {
    QuantisedTokenizer::from_weights(kind, weights, Path::new("file"), &Device::flex())
}

#[test]
fn sizes_are_read_off_the_weights() {
    let titok =
        load(QuantisedKind::TiTok, &recording(QuantisedKind::TiTok).split_prefix("weights.")).unwrap();
    assert_eq!(
        (titok.image_size(), titok.tokens(), titok.token_dim(), titok.codebook_size()),
        (16, 5, 6, 24)
    );
    let vq = load(QuantisedKind::Vq, &recording(QuantisedKind::Vq).split_prefix("weights.")).unwrap();
    assert_eq!((vq.image_size(), vq.tokens(), vq.token_dim(), vq.codebook_size()), (32, 256, 4, 40));
    assert_eq!(vq.kind(), QuantisedKind::Vq);
    assert_eq!((titok.hash().len(), titok.bits(5).round()), (64, 23.0));
}

#[test]
fn pictures_are_those_of_the_published_networks() {
    let mut recorded = recording(QuantisedKind::TiTok);
    let titok = load(QuantisedKind::TiTok, &recorded.split_prefix("weights.")).unwrap();
    let found = titok.encode(&Pixels(tensor(&recorded, "images")));
    let codes: Vec<i64> = found.codes.to_data().iter().collect();
    assert_eq!(codes, recorded.get("codes").unwrap().to_i64().unwrap());
    let apart =
        |found: Tensor<4>, name: &str| -> f32 { (found - tensor(&recorded, name)).abs().max().into_scalar() };
    assert!(apart(titok.decode(&found.vectors.0).0, "pictures") < 2e-4);
    let two = Decomposition::FirstK.kept(&found.vectors, &[2, 2]);
    assert!(apart(titok.decode(&two).0, "pictures_of_two") < 2e-4);
}

#[test]
fn large_batches_go_in_parts_and_come_back_in_order() {
    let x: Tensor<2> =
        Tensor::from_data(TensorData::new((0..9).map(|x| x as f32).collect(), [9, 1]), &Device::flex());
    let doubled = in_parts(&x, |part| {
        assert!(part.dims()[0] <= TOGETHER);
        part * 2.0
    });
    assert_eq!((doubled / 2.0).to_data(), x.to_data());
}

#[test]
fn other_files_are_refused() {
    let whole = QuantisedKind::ALL.map(|kind| recording(kind).split_prefix("weights."));
    let refusal = |kind, weights: &Weights| load(kind, weights).unwrap_err().to_string();
    let error = refusal(QuantisedKind::TiTok, &whole[1]);
    assert!(error.contains("is not a TiTok: it has") && error.contains("L-32"), "{error}");
    let error = refusal(QuantisedKind::Vq, &whole[0]);
    assert!(error.contains("VQ-16") && error.contains("decoder.class_embedding"), "{error}");
    for (kind, name) in [
        (QuantisedKind::TiTok, "encoder.patch_embed.weight"),
        (QuantisedKind::TiTok, "decoder.positional_embedding"),
        (QuantisedKind::Vq, "encoder.conv_in.weight"),
        (QuantisedKind::Vq, "quantize.embedding.weight"),
    ] {
        let mut weights = whole[usize::from(kind == QuantisedKind::Vq)].clone();
        weights.remove(name);
        let error = refusal(kind, &weights);
        assert!(error.contains(&format!("{name} is missing")), "{error}");
    }
}

#[test]
fn no_shape_of_a_weight_makes_it_panic() {
    for kind in QuantisedKind::ALL {
        let whole = recording(kind).split_prefix("weights.");
        for (name, tensor) in whole.iter() {
            for shape in [vec![], vec![0], vec![1], vec![0; 4], vec![7; 4]] {
                if shape == tensor.shape() {
                    continue;
                }
                let mut weights = whole.clone();
                let values = vec![0.5; shape.iter().product()];
                weights.insert(name, weights::HostTensor::from_f32(&shape, &values));
                let found = load(kind, &weights);
                assert!(found.is_err() || name == "quantize.codebook_used", "{name} {shape:?}");
            }
        }
    }
}
