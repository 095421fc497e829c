// Students, their teachers, and how they work together
// Each distilled model with its teacher, how the threshold between them was calibrated, and what was tuned.
MATCH (student:MatchGraphModel)-[e:DISTILLED_FROM]->(teacher:MatchGraphModel)
RETURN student.id AS student, teacher.id AS teacher, e.metric AS oracle, e.steps AS student_steps,
       e.samples AS calibrated_on, e.k AS percentile, e.percentiles[toInteger(e.k)] AS threshold, e.rollback AS rollback,
       e.teacher_steps AS teacher_steps, e.tflop AS mean_tflop, e.quality AS mean_quality
ORDER BY teacher, student
