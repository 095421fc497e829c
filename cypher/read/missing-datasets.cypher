// Which of these ids name no dataset.
UNWIND $ids AS id
WITH id
WHERE NOT EXISTS { (:MatchGraphDataset {id: id}) }
RETURN id ORDER BY id
