// Which of some ids are no variants.
UNWIND $ids AS id
OPTIONAL MATCH (v:MatchGraphVariant {id: id})
WITH id, v
WHERE v IS NULL
RETURN id
