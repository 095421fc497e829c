"""Folders of records from the text tables of TransferGraph (Li et al., ICDE 2024), for `bench.selection`.

    python -m bench.transfergraph TABLES OUT

TABLES holds `records.csv`, `model_config_dataset.csv`, `target_dataset_features.csv` and the distances of
datasets. OUT/transfergraph-text-full and OUT/transfergraph-text-lora are what `matchgraph ingest records`
reads: one regime of fine-tuning each. Repeated fine-tunings of a model on a dataset are averaged. Rows with
shifted columns or without an accuracy are left out and counted.
"""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd
from safetensors.numpy import save_file

DISTANCES = "corr_domain_similarity_EleutherAI_gpt-neo-125m_gpt.csv"
"""Distances by the embeddings of GPT-Neo, despite the name: 0 on the diagonal."""
REGIMES = {"full": "", "lora": "lora"}
NO_RUNS = (
    "run,model,dataset,replicate,config,metrics,model_fingerprint,dataset_fingerprint,adapter_sha256,attempt,"
    "training_seconds,seconds_per_image\n"
)


@click.command()
@click.argument("tables", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(tables: Path, out: Path) -> None:
    """See the module."""
    rows = pd.read_csv(tables / "records.csv", keep_default_na=False)
    sizes = pd.read_csv(tables / "target_dataset_features.csv").set_index("finetune_dataset")
    configs = pd.read_csv(tables / "model_config_dataset.csv").drop_duplicates("model").set_index("model")
    distances = pd.read_csv(tables / DISTANCES, index_col=0)
    rows["value"] = pd.to_numeric(rows["eval_accuracy"], errors="coerce")
    known = rows["finetuned_dataset"].isin(sizes.index) & rows["peft_method"].isin(REGIMES.values())
    sound = rows[known & rows["value"].notna()]
    for regime, named in REGIMES.items():
        own = sound[sound["peft_method"] == named].groupby(["model", "finetuned_dataset"])["value"].mean()
        results = own.rename_axis(["model", "dataset"]).reset_index()
        folder = out / f"transfergraph-text-{regime}"
        folder.mkdir(parents=True, exist_ok=True)
        results.assign(metric="accuracy", stage="finetuned").to_csv(folder / "results.csv", index=False)
        models = configs.reindex(sorted(set(results["model"])))
        models[["architectures", "model_type", "number_of_parameters", "memory_consumption"]].rename(
            columns={"number_of_parameters": "parameters"}
        ).to_csv(folder / "models.csv", index_label="model")
        names = sorted(set(results["dataset"]))
        sizes.reindex(names).to_csv(folder / "datasets.csv", index_label="dataset")
        compared = [name for name in names if name in distances.index]
        pairs = [
            (first, second, "text_distance", distances.loc[first, second])
            for position, first in enumerate(compared)
            for second in compared[position + 1 :]
        ]
        pd.DataFrame(pairs, columns=["dataset", "other", "metric", "value"]).to_csv(
            folder / "similarities.csv", index=False
        )
        (folder / "metrics.csv").write_text(
            "metric,larger_is_better,minimum,maximum\naccuracy,true,0,1\ntext_distance,false,,\n"
        )
        (folder / "runs.csv").write_text(NO_RUNS)
        save_file({}, folder / "statistics.safetensors", metadata={"statistics": "[]"})
        click.echo(f"{folder}: {len(models)} models x {len(names)} datasets, {len(results)} results")
    click.echo(f"{len(rows) - len(sound)} of {len(rows)} rows left out: shifted columns or no accuracy.")


if __name__ == "__main__":
    main()
