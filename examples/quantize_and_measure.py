"""Quantize one model, see what it costs to store, and measure what it still knows."""

import slmquant as sq

model = sq.quantize("smollm2-135m-instruct", method="gptq", scheme="W4A16g64")
print(f"{model.size.stored_bytes / 1e6:.0f} MB, {model.size.bpw:.2f} bits per weight")
model.save("smollm2-gptq")
for metric in sq.evaluate(model, ["wikitext2:2", "arc_easy:20"]).metrics:
    print(f"{metric.task:14} {metric.name:16} {metric.value:.4g} {metric.unit}")
