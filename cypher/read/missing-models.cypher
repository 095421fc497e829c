// Which of these ids name no model.
UNWIND $ids AS id
WITH id
WHERE NOT EXISTS { (:MatchGraphModel {id: id}) }
RETURN id ORDER BY id
