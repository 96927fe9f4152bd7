"""Compare methods under identical conditions; every cell is stored, a second run is instant."""

import slmquant as sq


def main() -> None:
    records = sq.bench(
        ["smollm2-135m-instruct"],
        methods=["rtn", "gptq", "smoothquant+gptq"],
        schemes=["W4A16g64", "W3A16g64"],
        tasks=["wikitext2:2"],
    )
    for record in records:
        divergence = record.metric("kl_mean")
        print(record.spec.label, record.status, f"{divergence.value:.3f} nats" if divergence else record.reason)


if __name__ == "__main__":
    main()
