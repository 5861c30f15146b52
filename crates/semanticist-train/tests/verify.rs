use burn::tensor::Device;
use semanticist_train::verify::verify;

#[test]
fn shared_reference() {
    let report = verify(std::path::Path::new("/work/shared/reference"), None, &Device::flex()).unwrap();
    println!("{}\n{:#?}", report.table(), report.unknown);
    assert!(report.passed());
}
