// Those of some models as they are served that have scores.
UNWIND $ids AS id
MATCH (v:MatchGraphVariant {id: id})
WHERE EXISTS { (v)-[:SCORED]->() }
RETURN v.id AS id
